//! Reads and writes names.

use super::*;

fn check<T>(known: &[T])
where
    T: Clone + std::fmt::Debug + PartialEq + std::fmt::Display + for<'a> From<&'a str>,
    T: std::str::FromStr<Err = std::convert::Infallible> + Into<String> + AsRef<str>,
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    assert!(!known.is_empty());
    for name in known.iter().cloned().chain([T::from("of next year")]) {
        let text: String = name.clone().into();
        assert_eq!(
            (name.to_string(), name.as_ref()),
            (text.clone(), text.as_str())
        );
        assert_eq!(T::from(&text), name);
        assert_eq!(text.parse::<T>().unwrap(), name);
        let json = serde_json::to_value(&name).unwrap();
        assert_eq!(json, text);
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), name);
    }
}

#[test]
fn every_name_survives_a_round_trip() {
    check(Loss::KNOWN);
    check(Miner::KNOWN);
    check(Optimizer::KNOWN);
    check(Scheduler::KNOWN);
    check(Sampler::KNOWN);
    check(MultiDatasetBatchSampler::KNOWN);
    check(Status::KNOWN);
    check(Device::KNOWN);
    check(RunTask::KNOWN);
    check(Task::KNOWN);
    check(Distance::KNOWN);
    check(Modality::KNOWN);
    check(SchedulerStep::KNOWN);
    check(MonitorMode::KNOWN);
    check(SamplingStrategy::KNOWN);
    check(NegativesFormat::KNOWN);
}

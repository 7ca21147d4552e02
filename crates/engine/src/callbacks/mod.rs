//! Callbacks: code that runs at defined points of a training run.

mod best_model;
mod context;
mod early_stopping;
mod evaluation;
mod graded;
mod monitor;
mod relevance;
mod report;
mod reranking;
mod verdict;
mod wise_ft;

use finetuner_protocol::Callback;

pub(crate) use context::{Context, TrainingCallback};
pub(crate) use evaluation::{check_evaluation, measured_names, search_kinds};
pub(crate) use monitor::{metric_name, watched_metrics};
pub(crate) use reranking::check_pairs;

use crate::{Result, models::ModelKind};

/// Builds the callbacks of a run, in their order.
pub(crate) fn build(
    callbacks: &[Callback],
    kind: ModelKind,
) -> Result<Vec<Box<dyn TrainingCallback>>> {
    let mut built: Vec<Box<dyn TrainingCallback>> = Vec::new();
    for callback in callbacks {
        match callback {
            Callback::BestModelCheckpoint(options) => {
                built.push(Box::new(best_model::BestModel::new(options)?));
            }
            Callback::EarlyStopping(options) => {
                built.push(Box::new(early_stopping::EarlyStopping::new(options)?));
            }
            Callback::EvaluationCallback(options) if kind == ModelKind::TextPairs => {
                built.push(Box::new(reranking::Reranking::new(options, callbacks)?));
            }
            Callback::EvaluationCallback(options) => {
                let evaluation = evaluation::Evaluation::new(options, callbacks, kind)?;
                built.push(Box::new(evaluation));
            }
            Callback::WiSEFTCallback(options) => {
                built.push(Box::new(wise_ft::WiseFt::new(options)?));
            }
            // The observer stores the run's checkpoints, and the job writes the
            // loggers' files from the history.
            Callback::TrainingCheckpoint(_)
            | Callback::WandBLogger(_)
            | Callback::MLFlowLogger(_) => {}
            other => {
                return Err(crate::Error::config(
                    "callbacks",
                    format!(
                        "`{}` is unknown; the callbacks are {}",
                        other.name(),
                        finetuner_protocol::callback::CALLBACKS.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::callback::EvaluationCallback;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_evaluation_remembers_the_similarity_before_training() {
        let options = Callback::EvaluationCallback(EvaluationCallback::new("test"));
        let mut built = build(&[options], ModelKind::Text).unwrap();
        assert_eq!(built[0].state(), json!(null));
        built[0].restore(&json!(0.995)).unwrap();
        assert_eq!(built[0].state(), json!(0.995));
    }
}

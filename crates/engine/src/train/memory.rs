//! Choosing a batch size that fits into memory.

use candle_core::Tensor;

use super::batches::Batches;
use crate::{Result, data::TrainingSet, models::Model, prepare::Preparer};

/// The batch size that is taken where it fits.
const WANTED: usize = 32;
/// Examples that are tried to see what one of them needs.
const TRIED: usize = 4;
/// The part of the free memory that a step may take.
const SHARE: f64 = 0.6;

/// A batch size where none was given: 32, or the largest smaller power of two
/// whose step fits into the free memory. What a step needs is measured with
/// four examples. Also says in words what was chosen and why.
///
/// # Errors
/// Where the examples can't be read.
pub fn choose_batch_size(
    model: &Model,
    preparer: &Preparer,
    set: &TrainingSet,
) -> Result<(usize, String)> {
    let chosen = |size: usize, why: &str| {
        let note = format!(
            "`batch_size` not given: {size} examples, {why}. A loss that compares the examples of \
             a batch depends on it: give it to have the same elsewhere"
        );
        (size, note)
    };
    let tried = TRIED.min(set.len());
    let batches = Batches {
        set,
        order: vec![(0..tried).collect()].into(),
        preparer,
        guide: None,
        device: model.params().device().clone(),
        draws: None,
    };
    let (Some(free), Some(before)) = (free_memory(), resident()) else {
        return Ok(chosen(
            WANTED,
            "since this system does not say how much memory is free",
        ));
    };
    let batch = batches.prepare(&batches.order[0])?;
    // A pass for training keeps what the way back would need.
    let pass = model.training();
    let inputs = batch.inputs.iter().enumerate();
    let kept = inputs.map(|(member, input)| model.encode_member(&pass, input, member));
    let kept: Vec<Tensor> = kept.collect::<Result<_>>()?;
    let after = resident().unwrap_or(before);
    drop(kept);
    // The way back needs about as much again.
    let each = 2.0 * after.saturating_sub(before) as f64 / tried.max(1) as f64;
    // Gradients are there already; the optimizer's moments are not.
    let left = free as f64 * SHARE - 8.0 * model.params().count() as f64;
    let fits = |size: usize| each * size as f64 <= left;
    let mut size = WANTED;
    while size > 2 && !fits(size) {
        size /= 2;
    }
    let megabytes = |bytes: f64| (bytes / 1e6).round();
    let why = format!(
        "which need about {} of {} MB of free memory",
        megabytes(each * size as f64),
        megabytes(free as f64)
    );
    Ok(chosen(size, &why))
}

/// Bytes of memory that this process holds, where Linux says so.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024)
}

/// Bytes of memory that are free, here and in the control group.
fn free_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = kilobytes(&machine, "MemAvailable:")? * 1024;
    let number = |file: &str| -> Option<u64> {
        let path = format!("/sys/fs/cgroup/memory.{file}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(match (number("max"), number("current")) {
        (Some(limit), Some(used)) => machine.min(limit.saturating_sub(used)),
        _ => machine,
    })
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

//! `WiSEFTCallback`: averages the weights before and after fine-tuning.
//!
//! The result is `(1 - alpha) * before + alpha * after` (Wortsman et al. 2022,
//! arXiv:2109.01903).

use std::collections::HashSet;

use finetuner_protocol::{Level, callback::WiSEFTCallback};

use super::context::{Context, TrainingCallback};
use crate::{
    Error, Result,
    ops::ADAPTER_A,
    params::stream::{self, Entry},
};

/// Weights before training, in the run's folder.
const FILE: &str = "before.safetensors";

pub(crate) struct WiseFt {
    alpha: f64,
}

impl WiseFt {
    pub(crate) fn new(options: &WiSEFTCallback) -> Result<Self> {
        if !(0.0..=1.0).contains(&options.alpha) {
            return Err(Error::config(
                "callbacks.WiSEFTCallback.alpha",
                format!("{}: give a number from 0 to 1", options.alpha),
            ));
        }
        Ok(Self {
            alpha: options.alpha,
        })
    }
}

impl TrainingCallback for WiseFt {
    fn on_fit_begin(&mut self, context: &mut Context<'_>) -> Result<()> {
        let before = context.trainer.model.params().changing();
        let before: Vec<Entry<'_>> = before.map(|param| Entry::of_param("", param)).collect();
        stream::write_atomically(&context.folder.join(FILE), &before)
    }

    fn on_fit_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        let path = context.folder.join(FILE);
        let (keep, take) = ((1.0 - self.alpha) as f32, self.alpha as f32);
        let params = context.trainer.model.params();
        let mut left: HashSet<&str> = params.changing().map(|param| param.name()).collect();
        stream::read(&path, FILE, |name, shape, old| {
            let param = params
                .find(&name)
                .filter(|param| param.tensor().dims() == shape);
            let Some(param) = param.filter(|_| left.remove(name.as_str())) else {
                return Ok(());
            };
            // The second factor of an adapter starts at zero. Interpolating it alone
            // interpolates the product of both factors.
            if name.ends_with(ADAPTER_A) {
                return Ok(());
            }
            param.update(|value| {
                for (value, old) in value.iter_mut().zip(&old) {
                    *value = keep * old + take * *value;
                }
            })
        })?;
        if let Some(name) = left.into_iter().next() {
            let what = format!("the weights from before training have no `{name}`");
            return Err(Error::checkpoint(what));
        }
        let message = format!(
            "Interpolated the weights: {take} of those after fine-tuning, {keep} of those before"
        );
        context.log(Level::Info, message);
        Ok(())
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }
}

//! `WiSEFTCallback`: weights between those before and those after fine-tuning
//! (Wortsman et al. 2022, arXiv:2109.01903): `(1 - alpha) * before + alpha *
//! after`.

use finetuner_protocol::{Level, callback::WiSEFTCallback};

use super::{Context, TrainingCallback};
use crate::{
    Error, Result,
    params::{FloatFormat, parse_safetensors, write_safetensors},
};

/// The weights before the training, in the run's folder.
const FILE: &str = "before.safetensors";

pub(crate) struct WiseFt {
    alpha: f64,
}

impl WiseFt {
    pub(crate) fn new(options: &WiSEFTCallback) -> Result<Self> {
        if !(0.0..=1.0).contains(&options.alpha) {
            return Err(Error::config(
                "callbacks.WiSEFTCallback.alpha",
                format!("{}: a number from 0 to 1 is wanted", options.alpha),
            ));
        }
        Ok(Self {
            alpha: options.alpha,
        })
    }
}

impl TrainingCallback for WiseFt {
    fn on_fit_begin(&mut self, context: &mut Context<'_>) -> Result<()> {
        let before = context.trainer.model.params().snapshot()?;
        write_safetensors(&context.folder.join(FILE), &before, FloatFormat::F32)
    }

    fn on_fit_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        let path = context.folder.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let before = parse_safetensors(&bytes, FILE)?;
        let (keep, take) = ((1.0 - self.alpha) as f32, self.alpha as f32);
        for param in context.trainer.model.params().iter() {
            let Some((_, old)) = before.get(param.name()) else {
                let what = format!("no `{}` before the training", param.name());
                return Err(Error::checkpoint(what));
            };
            param.update(|value| {
                for (value, old) in value.iter_mut().zip(old) {
                    *value = keep * old + take * *value;
                }
            })?;
        }
        let message = format!("Weights are {take} of the fine-tuned and {keep} of the ones before");
        context.log(Level::Info, message);
        Ok(())
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }
}

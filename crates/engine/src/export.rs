//! Exports models to formats of other programs.

use std::path::Path;

use crate::{
    Error, Result,
    image::ImageProcessor,
    models::{ModelKind, OnnxFormat, OnnxInput, TokenType, no_onnx},
    source::LoadedModel,
};

impl LoadedModel {
    /// Returns the file name and the input of each ONNX model to write.
    fn onnx_files(&self) -> Vec<(&'static str, OnnxInput<'static>)> {
        let texts = OnnxInput::Texts(TokenType::Int64);
        let processor = self.preparer.processor.as_ref();
        let sides = processor.map_or([0; 2], ImageProcessor::sides);
        let images = OnnxInput::Images {
            name: "pixel_values",
            sides: sides.map(|side| side as usize),
            affine: None,
        };
        let features = OnnxInput::Features {
            length: self.preparer.features.unwrap_or(0),
        };
        match self.model.kind() {
            ModelKind::Text => vec![("model.onnx", texts)],
            ModelKind::Image => vec![("model.onnx", images)],
            ModelKind::TextImage => {
                vec![("text_model.onnx", texts), ("vision_model.onnx", images)]
            }
            ModelKind::Features => vec![("model.onnx", features)],
            ModelKind::TextPairs => {
                let pairs = OnnxInput::TextPairs(TokenType::Int64);
                vec![("model.onnx", pairs)]
            }
            ModelKind::PointCloud => Vec::new(),
        }
    }

    /// See [`crate::infer::Encoder::save_onnx`].
    pub(crate) fn save_onnx(&self, folder: &Path, format: OnnxFormat) -> Result<()> {
        let files = self.onnx_files();
        if files.is_empty() {
            return Err(no_onnx(self.model.kind()));
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        for (name, input) in files {
            self.model.save_onnx(&folder.join(name), input, format)?;
        }
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(&path, e))
        };
        let json = |name: &str, value: &serde_json::Value| {
            let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
            put(name, &text.map_err(|e| Error::io(folder, e))?)
        };
        json("config.json", &self.description.config)?;
        if let Some(processor) = &self.preparer.processor {
            json("preprocessor_config.json", &processor.to_json())?;
        }
        for (name, bytes) in &self.description.side_files {
            put(name, bytes)?;
        }
        let activation = self.model.setup().activation;
        let files = self.description.classifier_files(activation)?;
        for (name, bytes) in files.into_iter().flatten() {
            put(&name, &bytes)?;
        }
        Ok(())
    }
}

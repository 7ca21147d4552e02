//! A model as ONNX: inputs, network, projection head, embedding.

use std::path::Path;

use super::{Model, ModelKind};
use crate::{
    Error, Result,
    onnx::{BATCH, DataType, Dim, Graph, Inputs, TextInputs},
};

/// The name of an ONNX model's output.
const OUTPUT: &str = "embedding";
/// That of a cross-encoder: its scores before their activation, as
/// `transformers` names them.
const SCORES: &str = "logits";

/// The name of the output of a model of this kind.
pub(crate) fn output_name(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::TextPairs => SCORES,
        _ => OUTPUT,
    }
}

/// The input that an ONNX model takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnnxInput<'a> {
    /// `input_ids` and `attention_mask`, `[batch, length]`, of this type. The
    /// mask is 0 for padding. A model that reads padding too, as a SigLIP, takes
    /// texts of one length alone and ignores the mask.
    Texts(TokenType),
    /// The same for a cross-encoder, with `token_type_ids` where the network tells
    /// the two texts of a pair apart.
    TextPairs(TokenType),
    /// Pictures as [`crate::image::ImageProcessor`] prepares them, `[batch, 3,
    /// height, width]`.
    Images {
        /// The input's name.
        name: &'a str,
        /// Height and width in pixels.
        sides: [usize; 2],
        /// Factor and summand of each channel, for pictures that come
        /// normalised in another way.
        affine: Option<([f32; 3], [f32; 3])>,
    },
    /// `features`, `[batch, length]`.
    Features {
        /// How many numbers an item has.
        length: usize,
    },
}

/// The type of token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// 32 bits, as the Python Finetuner gives them.
    Int32,
    /// 64 bits, as tokenizers give them.
    Int64,
}

/// The numbers that an ONNX model computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxFormat {
    /// 32-bit floats: what the engine itself computes, to the last digits.
    #[default]
    Float32,
    /// 8 bits for the products and the table of tokens of transformers, as
    /// onnxruntime's dynamic quantisation: a quarter of the size, faster, and a
    /// little less exact. Convolutions stay as they are.
    Int8,
}

impl Model {
    /// Writes the model as ONNX to `path`, from an input to `embedding`, or to
    /// the `logits` of a cross-encoder. Weights
    /// of more than 2 GiB go to `{path}.data`.
    ///
    /// # Errors
    /// [`Error::Data`] where the model embeds no such inputs, or its
    /// architecture can't be written as ONNX; [`Error::Io`] where a file can't be
    /// written.
    pub fn save_onnx(&self, path: &Path, input: OnnxInput<'_>, format: OnnxFormat) -> Result<()> {
        self.onnx(input, format)?.write(path)
    }

    /// The graph from an input to its embedding.
    pub(crate) fn onnx(&self, input: OnnxInput<'_>, format: OnnxFormat) -> Result<Graph> {
        let mut graph = Graph::new(format == OnnxFormat::Int8);
        let inputs = match input {
            OnnxInput::Texts(kind) | OnnxInput::TextPairs(kind) => {
                let kind = match kind {
                    TokenType::Int32 => DataType::Int32,
                    TokenType::Int64 => DataType::Int64,
                };
                let length = self.config.architecture().text_length();
                let length = self.setup.text_length.or(length);
                let is_pair = matches!(input, OnnxInput::TextPairs(_));
                let with_kinds = is_pair && self.config.architecture().token_kinds() > 1;
                Inputs::Texts(TextInputs::new(&mut graph, kind, length, with_kinds))
            }
            OnnxInput::Images {
                name,
                sides: [height, width],
                affine,
            } => {
                let dims = [BATCH, Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)];
                let mut pixels = graph.input(name, DataType::Float, &dims);
                if let Some((scale, shift)) = affine {
                    for (kind, name, values) in [
                        ("Mul", "pixels.scale", scale),
                        ("Add", "pixels.shift", shift),
                    ] {
                        let dims = vec![1, 3, 1, 1];
                        let values = graph.computed(name, dims, move || Ok(values.to_vec()));
                        pixels = graph.op(kind, &[&pixels, &values], &[]);
                    }
                }
                Inputs::Images(pixels, [height, width])
            }
            OnnxInput::Features { length } => {
                let dims = [BATCH, Dim::Fixed(length)];
                Inputs::Features(graph.input("features", DataType::Float, &dims))
            }
        };
        let x = self.network.onnx(&mut graph, &inputs)?;
        let x = x.ok_or_else(|| no_onnx(self.kind()))?;
        let before = self.modules[0].iter();
        let x = before.fold(x, |x, layer| layer.onnx(&mut graph, &x));
        let x = match &self.heads {
            Some(heads) => {
                let texts = matches!(inputs, Inputs::Texts(_));
                heads.of(texts).onnx(&mut graph, &x)?
            }
            None => x,
        };
        let behind = self.modules[1].iter();
        let x = behind.fold(x, |x, layer| layer.onnx(&mut graph, &x));
        graph.output(
            &x,
            output_name(self.kind()),
            &[BATCH, Dim::Fixed(self.dim())],
        );
        Ok(graph)
    }
}

/// Says that models of this kind have no ONNX form.
pub(crate) fn no_onnx(kind: ModelKind) -> Error {
    let kind = kind.inputs();
    Error::data(format!(
        "this model of {kind} can't be written as ONNX: its architecture has no ONNX form"
    ))
}

//! Export of a model as an ONNX graph: inputs, network, projection head,
//! embedding.

use std::path::Path;

use super::{kind::ModelKind, model::Model};
use crate::{
    Error, Result,
    onnx::{BATCH, DataType, Dim, Graph, Inputs, TextInputs},
};

/// The name of an ONNX model's output.
const OUTPUT: &str = "embedding";
/// The output of a cross-encoder: scores before the activation. `transformers`
/// uses the same name.
const SCORES: &str = "logits";

/// Returns the output name of models of this kind.
pub(crate) fn output_name(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::TextPairs => SCORES,
        _ => OUTPUT,
    }
}

/// The input of an ONNX model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnnxInput<'a> {
    /// `input_ids` and `attention_mask`, `[batch, length]`, of this type. The
    /// mask is 0 for padding. A model that attends to padding, such as SigLIP,
    /// takes only texts of one length and ignores the mask.
    Texts(TokenType),
    /// The same for a cross-encoder, with `token_type_ids` if the network has
    /// token types.
    TextPairs(TokenType),
    /// Images as [`crate::image::ImageProcessor`] prepares them, `[batch, 3,
    /// height, width]`.
    Images {
        /// The input's name.
        name: &'a str,
        /// Height and width in pixels.
        sides: [usize; 2],
        /// Scale and shift of each channel, for images with another
        /// normalisation.
        affine: Option<([f32; 3], [f32; 3])>,
    },
    /// `features`, `[batch, length]`.
    Features {
        /// Number of features of an item.
        length: usize,
    },
}

/// Integer type of token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// 32 bits, as in the Python Finetuner.
    Int32,
    /// 64 bits, as tokenizers produce them.
    Int64,
}

/// Number format of an ONNX model's weights and computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxFormat {
    /// 32-bit floats. Results equal the engine's up to rounding.
    #[default]
    Float32,
    /// 8-bit integers for matrix products and token embeddings of transformers,
    /// like onnxruntime's dynamic quantisation: a quarter of the size, faster,
    /// slightly less exact. Convolutions remain in 32 bits.
    Int8,
}

impl Model {
    /// Writes the model as ONNX to `path`. Its output is `embedding`, or
    /// `logits` for a cross-encoder. Weights of more than 2 GiB go to
    /// `{path}.data`.
    ///
    /// # Errors
    /// [`Error::Data`] if the model does not take this input or its
    /// architecture has no ONNX form; [`Error::Io`] if a file can't be written.
    pub fn save_onnx(&self, path: &Path, input: OnnxInput<'_>, format: OnnxFormat) -> Result<()> {
        self.onnx(input, format)?.write(path)
    }

    /// Builds the graph from an input to its embedding.
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
                let with_kinds = is_pair && self.config.architecture().token_types() > 1;
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
        let after = self.modules[1].iter();
        let x = after.fold(x, |x, layer| layer.onnx(&mut graph, &x));
        graph.output(
            &x,
            output_name(self.kind()),
            &[BATCH, Dim::Fixed(self.dim())],
        );
        Ok(graph)
    }
}

/// Returns the error for a model whose architecture has no ONNX form.
pub(crate) fn no_onnx(kind: ModelKind) -> Error {
    let kind = kind.inputs();
    Error::data(format!(
        "this model of {kind} can't be exported to ONNX: its architecture has no ONNX form"
    ))
}

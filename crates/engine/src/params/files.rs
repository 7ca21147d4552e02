//! Weight files in the safetensors format.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{
    RawTensor,
    stream::{self, to_f32_values},
};
use crate::{Error, Result};

/// Number format of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision: half the size, about three decimal digits.
    F16,
}

/// Parses all floating-point tensors of a safetensors file.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is incomplete or invalid.
pub fn parse_safetensors(bytes: &[u8], origin: &str) -> Result<HashMap<String, RawTensor>> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::checkpoint(format!("{origin} is not a valid safetensors file: {e}")))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        if let Some(data) = to_f32_values(view.dtype(), view.data()) {
            tensors.insert(name.to_owned(), (view.shape().to_vec(), data));
        }
    }
    Ok(tensors)
}

/// Writes named tensors to a safetensors file, sorted by name.
///
/// # Errors
/// [`Error::Io`] if the file can't be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &HashMap<String, RawTensor>,
    format: FloatFormat,
) -> Result<()> {
    if format == FloatFormat::F32 {
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        let entries = names.into_iter().filter_map(|name| {
            let (shape, values) = tensors.get(name)?;
            Some(stream::Entry {
                name: name.clone(),
                shape: shape.clone(),
                values: stream::Values::Floats(Cow::Borrowed(values)),
            })
        });
        return stream::write(path, &entries.collect::<Vec<_>>());
    }
    let encoded = encode(tensors, format);
    safetensors::serialize_to_file(views(&encoded, format)?, Some(metadata()), path)
        .map_err(|e| Error::io(path, std::io::Error::other(e)))
}

/// Encodes tensors as a safetensors file.
pub(crate) fn encode_safetensors(
    tensors: &HashMap<String, RawTensor>,
    format: FloatFormat,
) -> Result<Vec<u8>> {
    let encoded = encode(tensors, format);
    safetensors::serialize(views(&encoded, format)?, Some(metadata()))
        .map_err(|e| Error::checkpoint(e.to_string()))
}

/// `transformers` refuses files without this metadata.
fn metadata() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}

type Encoded<'a> = BTreeMap<&'a str, (&'a [usize], Vec<u8>)>;

fn encode(tensors: &HashMap<String, RawTensor>, format: FloatFormat) -> Encoded<'_> {
    let encoded = tensors.iter().map(|(name, (shape, data))| {
        let bytes = match format {
            FloatFormat::F32 => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            FloatFormat::F16 => data
                .iter()
                .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
                .collect(),
        };
        (name.as_str(), (shape.as_slice(), bytes))
    });
    encoded.collect()
}

fn views<'a>(
    encoded: &'a Encoded<'_>,
    format: FloatFormat,
) -> Result<Vec<(&'a str, TensorView<'a>)>> {
    let dtype = match format {
        FloatFormat::F32 => Dtype::F32,
        FloatFormat::F16 => Dtype::F16,
    };
    encoded
        .iter()
        .map(|(name, (shape, bytes))| {
            TensorView::new(dtype, shape.to_vec(), bytes)
                .map(|view| (*name, view))
                .map_err(|e| Error::checkpoint(format!("`{name}`: {e}")))
        })
        .collect()
}

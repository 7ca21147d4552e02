//! Writes PyTorch files of named tensors, like `torch.save` of a `state_dict`,
//! for `torch.load`.
//!
//! The file is a zip. `data.pkl` is a pickle of an `OrderedDict` that names the
//! files with the tensors' values. It calls only functions that `torch.load`
//! allows for weights.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{Error, Result, params::Param};

/// A tensor of a state dict.
pub(crate) enum TorchTensor {
    /// The values of a parameter.
    Floats(Arc<Param>),
    /// Integers in one row.
    Row(Vec<i64>),
}

impl TorchTensor {
    fn dims(&self) -> Vec<usize> {
        match self {
            Self::Floats(param) => param.tensor().dims().to_vec(),
            Self::Row(values) => vec![1, values.len()],
        }
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Floats(param) => {
                let values = param.to_vec()?;
                values.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Self::Row(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }
}

/// Writes a state dict.
///
/// # Errors
/// [`Error::Io`] if the file can't be written.
pub(crate) fn write(path: &Path, tensors: &[(String, TorchTensor)]) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(path, e);
    let mut zip = ZipWriter::new(File::create(path).map_err(failed)?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut put = |name: &str, bytes: &[u8]| {
        let options = options.large_file(bytes.len() as u64 > u64::from(u32::MAX));
        zip.start_file(format!("archive/{name}"), options)
            .map_err(|e| Error::io(path, e.into()))?;
        zip.write_all(bytes).map_err(failed)
    };
    put("data.pkl", &pickle(tensors))?;
    put("byteorder", b"little")?;
    for (number, (_, tensor)) in tensors.iter().enumerate() {
        put(&format!("data/{number}"), &tensor.bytes()?)?;
    }
    put("version", b"3\n")?;
    zip.finish().map_err(|e| Error::io(path, e.into()))?;
    Ok(())
}

/// Opcodes of pickle protocol 2 that a state dict needs.
mod opcode {
    pub(super) const PROTOCOL: [u8; 2] = [0x80, 2];
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const MARK: u8 = b'(';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const UNICODE: u8 = b'X';
    pub(super) const INT: u8 = b'J';
    pub(super) const LONG: [u8; 2] = [0x8a, 8];
    pub(super) const FALSE: u8 = 0x89;
    pub(super) const PERSISTENT_ID: u8 = b'Q';
    pub(super) const SET_ITEMS: u8 = b'u';
    pub(super) const STOP: u8 = b'.';
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn global(&mut self, module: &str, name: &str) {
        self.0.push(opcode::GLOBAL);
        self.0.extend(format!("{module}\n{name}\n").bytes());
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend([opcode::EMPTY_TUPLE, opcode::REDUCE]);
    }

    fn text(&mut self, text: &str) {
        self.0.push(opcode::UNICODE);
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn int(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.0.push(opcode::INT);
                self.0.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.0.extend(opcode::LONG);
                self.0.extend((value as u64).to_le_bytes());
            }
        }
    }

    fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.0.push(opcode::MARK);
        items(self);
        self.0.push(opcode::TUPLE);
    }
}

fn pickle(tensors: &[(String, TorchTensor)]) -> Vec<u8> {
    let mut p = Pickle(opcode::PROTOCOL.to_vec());
    p.ordered_dict();
    p.0.push(opcode::MARK);
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        let dims = tensor.dims();
        let storage = match tensor {
            TorchTensor::Floats(_) => "FloatStorage",
            TorchTensor::Row(_) => "LongStorage",
        };
        p.text(name);
        p.global("torch._utils", "_rebuild_tensor_v2");
        p.tuple(|p| {
            p.tuple(|p| {
                p.text("storage");
                p.global("torch", storage);
                p.text(&number.to_string());
                p.text("cpu");
                p.int(dims.iter().product());
            });
            p.0.push(opcode::PERSISTENT_ID);
            p.int(0);
            p.tuple(|p| dims.iter().for_each(|n| p.int(*n)));
            p.tuple(|p| {
                for axis in 0..dims.len() {
                    p.int(dims[axis + 1..].iter().product());
                }
            });
            p.0.push(opcode::FALSE);
            p.ordered_dict();
        });
        p.0.push(opcode::REDUCE);
    }
    p.0.extend([opcode::SET_ITEMS, opcode::STOP]);
    p.0
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn a_state_dict_is_read_back_like_pytorchs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pt");
        let values: Vec<f32> = (0..6).map(|n| n as f32 / 4.0).collect();
        let weight = Param::trainable("w", vec![2, 3], values.clone()).unwrap();
        let scale = Param::trainable("s", vec![], vec![5.0]).unwrap();
        let tensors = [
            ("_model.weight".to_owned(), TorchTensor::Floats(weight)),
            (
                "_model.position_ids".to_owned(),
                TorchTensor::Row(vec![0, 1, 2]),
            ),
            ("scale".to_owned(), TorchTensor::Floats(scale)),
        ];
        write(&path, &tensors).unwrap();
        // candle itself reads PyTorch files.
        let mut read = candle_core::pickle::read_all(&path).unwrap();
        read.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["_model.position_ids", "_model.weight", "scale"]);
        let ids = &read[0].1;
        assert_eq!((ids.dtype(), ids.dims()), (DType::I64, &[1, 3][..]));
        assert_eq!(
            ids.flatten_all().unwrap().to_vec1::<i64>().unwrap(),
            [0, 1, 2]
        );
        let weight = &read[1].1;
        assert_eq!(weight.dims(), [2, 3]);
        assert_eq!(
            weight.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            values
        );
        assert!(read[2].1.dims().is_empty());
    }
}

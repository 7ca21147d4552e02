//! Writes and reads safetensors files one tensor at a time, without a second
//! copy of the tensors in memory.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use safetensors::{Dtype, tensor::Metadata};
use serde_json::{Map, Value, json};

use super::Param;
use crate::{Error, Result};

/// Longest header, as in the format's own library.
const LONGEST_HEADER: u64 = 100_000_000;
/// Number of bytes converted to or from numbers at once.
const CHUNK: usize = 1 << 20;
/// The header is padded to a multiple of this.
const ALIGNMENT: usize = 8;

/// The values of a tensor to write.
pub(crate) enum Values<'a> {
    /// The values of a parameter.
    Param(&'a Param),
    /// Other values.
    Floats(Cow<'a, [f32]>),
}

/// A named tensor to write.
pub(crate) struct Entry<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values<'a>,
}

impl<'a> Entry<'a> {
    /// Creates an entry for a parameter, with `prefix` before its name.
    pub(crate) fn of_param(prefix: &str, param: &'a Param) -> Self {
        Self {
            name: format!("{prefix}{}", param.name()),
            shape: param.tensor().dims().to_vec(),
            values: Values::Param(param),
        }
    }

    /// Creates an entry for a list of numbers.
    pub(crate) fn list(name: String, values: impl Into<Cow<'a, [f32]>>) -> Self {
        let values = values.into();
        Self {
            name,
            shape: vec![values.len()],
            values: Values::Floats(values),
        }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Calls `each` with the values.
    fn read(&self, each: impl FnOnce(&[f32]) -> Result<()>) -> Result<()> {
        match &self.values {
            Values::Param(param) => param.read(each)?,
            Values::Floats(values) => each(values),
        }
    }
}

/// Writes 32-bit tensors to a file atomically: to a temporary file first, which
/// is renamed once all data is on disk. Until then an existing file stays
/// unchanged.
///
/// # Errors
/// [`Error::Io`] if the file can't be written, for example if the disk is full.
pub(crate) fn write_atomically(path: &Path, entries: &[Entry<'_>]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let written = write(&temporary, entries)
        .and_then(|()| std::fs::rename(&temporary, path).map_err(|e| Error::io(path, e)));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Writes 32-bit tensors to a file, and returns once it is on disk.
///
/// # Errors
/// [`Error::Io`] if the file can't be written.
pub(crate) fn write(path: &Path, entries: &[Entry<'_>]) -> Result<()> {
    let io = |e| Error::io(path, e);
    let file = File::create(path).map_err(io)?;
    let mut file = BufWriter::with_capacity(CHUNK, file);
    let header = header(entries).to_string();
    let filled = header.len().next_multiple_of(ALIGNMENT);
    file.write_all(&(filled as u64).to_le_bytes()).map_err(io)?;
    write!(file, "{header:filled$}").map_err(io)?;
    for entry in entries {
        entry.read(|values| {
            if values.len() != entry.count() {
                return Err(Error::checkpoint(format!(
                    "`{}` has another number of values than its shape",
                    entry.name
                )));
            }
            for chunk in values.chunks(CHUNK / 4) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(io)?;
            }
            Ok(())
        })?;
    }
    let file = file.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)
}

fn header(entries: &[Entry<'_>]) -> Value {
    let mut all = Map::new();
    // `transformers` refuses files without this metadata.
    all.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in entries {
        let end = at + 4 * entry.count();
        let about = json!({"dtype": "F32", "shape": entry.shape, "data_offsets": [at, end]});
        all.insert(entry.name.clone(), about);
        at = end;
    }
    all.into()
}

/// Opens a safetensors file, reads its header and stops after it.
pub(crate) fn open(path: &Path, file: &str) -> Result<(File, Metadata)> {
    let io = |e| Error::io(path, e);
    let bad = |reason: String| Error::checkpoint(format!("{file} {reason}"));
    let cut = |there: u64, wanted: u64| {
        bad(format!(
            "is cut short: it has {there} of {wanted} bytes. Download it again"
        ))
    };
    let mut opened = File::open(path).map_err(io)?;
    let size = opened.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    if size < length.len() as u64 {
        return Err(cut(size, length.len() as u64));
    }
    opened.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(bad(
            "is not a safetensors file: its first bytes are not the length of a header".to_owned(),
        ));
    }
    let start = 8 + length;
    if start > size {
        return Err(cut(size, start));
    }
    let mut header = vec![0; length as usize];
    opened.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| bad(format!("is not a valid safetensors file: {e}")))?;
    let end = start + metadata.data_len() as u64;
    if end > size {
        return Err(cut(size, end));
    }
    Ok((opened, metadata))
}

/// Calls `each` with name, shape and values of all floating-point tensors in a
/// safetensors file, in the order of the file.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is not a complete safetensors file,
/// [`Error::Io`] if it can't be read, or the error of `each`.
pub(crate) fn read(
    path: &Path,
    file: &str,
    mut each: impl FnMut(String, Vec<usize>, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let io = |e| Error::io(path, e);
    let bad = |reason: String| Error::checkpoint(format!("{file} {reason}"));
    let (mut opened, metadata) = open(path, file)?;
    // Sorted by offset, to read the file sequentially.
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut at = 0;
    let mut chunk = vec![0; CHUNK];
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from < at || to < from {
            return Err(bad(format!(
                "is not a valid safetensors file: `{name}` overlaps another tensor"
            )));
        }
        skip(&mut opened, (from - at) as u64).map_err(io)?;
        at = to;
        if !is_float(info.dtype).map_err(|kind| {
            bad(format!(
                "holds `{name}` as {kind}; supported are float64, float32, float16 and bfloat16. Save \
                 the model in one of these"
            ))
        })? {
            skip(&mut opened, (to - from) as u64).map_err(io)?;
            continue;
        }
        let mut values = Vec::with_capacity(info.shape.iter().product());
        let mut left = to - from;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            opened.read_exact(part).map_err(io)?;
            values.extend(to_f32_values(info.dtype, part).into_iter().flatten());
            left -= part.len();
        }
        each(name, info.shape.clone(), values)?;
    }
    Ok(())
}

fn skip(file: &mut File, bytes: u64) -> std::io::Result<()> {
    match bytes {
        0 => Ok(()),
        bytes => file.seek(SeekFrom::Current(bytes as i64)).map(drop),
    }
}

/// Returns whether a tensor has a supported float type. Returns the type's name
/// as an error if it is unsupported but belongs to the model.
fn is_float(dtype: Dtype) -> Result<bool, String> {
    match dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(true),
        Dtype::BOOL
        | Dtype::U8
        | Dtype::I8
        | Dtype::U16
        | Dtype::I16
        | Dtype::U32
        | Dtype::I32
        | Dtype::U64
        | Dtype::I64 => Ok(false),
        other => Err(format!("{other:?}")),
    }
}

/// Converts a tensor's values to 32 bits. `None` for integers, such as the
/// position IDs that older versions of `transformers` saved.
pub(crate) fn to_f32_values(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::bf16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::parse_safetensors;

    fn entries(value: f32) -> Vec<Entry<'static>> {
        vec![
            Entry::list("b".to_owned(), vec![value; 3]),
            Entry {
                name: "a \"quoted\"".to_owned(),
                shape: vec![2, 2],
                values: Values::Floats(vec![value, 1.0, f32::MIN, 0.5].into()),
            },
            Entry::list("none".to_owned(), Vec::new()),
        ]
    }

    #[test]
    fn tensors_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        write_atomically(&path, &entries(7.0)).unwrap();
        let mut found = std::collections::HashMap::new();
        read(&path, "state", |name, shape, values| {
            found.insert(name, (shape, values));
            Ok(())
        })
        .unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found["b"], (vec![3], vec![7.0; 3]));
        assert_eq!(
            found["a \"quoted\""],
            (vec![2, 2], vec![7.0, 1.0, f32::MIN, 0.5])
        );
        // The format's own library reads the same.
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(parse_safetensors(&bytes, "state").unwrap(), found);
    }

    /// Each write to `/dev/full` fails like one to a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_previous_file_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        write_atomically(&path, &entries(1.0)).unwrap();
        let before = std::fs::read(&path).unwrap();
        let temporary = path.with_extension("tmp");
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        let error = write_atomically(&path, &entries(2.0))
            .unwrap_err()
            .to_string();
        assert!(error.contains("No space left on device"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!temporary.exists());
    }
}

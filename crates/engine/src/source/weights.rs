//! Reads weights from safetensors and PyTorch files, single or sharded.
//!
//! Reads and converts one tensor at a time to 32 bits, so that a model is in
//! memory only once. Memory-mapped files would be unsafe: another process may
//! change them.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use candle_core::pickle::PthTensors;
use serde_json::Value;

use crate::{
    Error, Result,
    params::{RawTensor, stream},
    python_json,
};

/// Weight files, in the order in which `transformers` tries them.
pub(super) const SINGLE_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Weight files of other libraries, for error messages.
const OTHERS: [(&str, &str); 5] = [
    ("onnx/model.onnx", "ONNX"),
    ("openvino/openvino_model.xml", "OpenVINO"),
    ("tf_model.h5", "TensorFlow"),
    ("flax_model.msgpack", "Flax"),
    ("model.gguf", "llama.cpp"),
];

type Tensors = HashMap<String, RawTensor>;

/// Reads the weights of the model `name` from the first of the files `whole`
/// that `find` finds, or from its shards.
pub(super) fn read(
    name: &str,
    whole: &[&str],
    find: &dyn Fn(&str) -> Result<Option<PathBuf>>,
) -> Result<Tensors> {
    for whole in whole {
        if let Some(path) = find(whole)? {
            return read_file(&path, whole);
        }
        let index = format!("{whole}.index.json");
        if let Some(path) = find(&index)? {
            return read_shards(name, &index, &path, find);
        }
    }
    let looked = format!(
        "{}, whole or in shards with an .index.json",
        whole.join(" or ")
    );
    for (other, library) in OTHERS {
        if find(other)?.is_some() {
            let reason = format!(
                "it has weights only for {library} (`{other}`), and no {looked}: \
                 load it with transformers in Python and call `save_pretrained`"
            );
            return Err(Error::model(name, reason));
        }
    }
    Err(Error::model(name, format!("it has no {looked}")))
}

/// Returns the names of the tensors that [`read`] would read; empty if the
/// model has no such weights. Does not read the tensors.
pub(super) fn names(
    whole: &[&str],
    find: &dyn Fn(&str) -> Result<Option<PathBuf>>,
) -> Result<Vec<String>> {
    for file in whole {
        if let Some(path) = find(file)? {
            let head = head(&path, file)?;
            return match file.ends_with(".safetensors") {
                true => Ok(stream::open(&path, file)?.1.offset_keys()),
                false => Ok(catching(file, || open_pytorch(&path, file, &head))?
                    .tensor_infos()
                    .keys()
                    .cloned()
                    .collect()),
            };
        }
        let index = format!("{file}.index.json");
        if let Some(path) = find(&index)? {
            return Ok(weight_map(&index, &path)?
                .into_iter()
                .map(|(name, _)| name)
                .collect());
        }
    }
    Ok(Vec::new())
}

/// Reads a file's first bytes, and checks that they can be those of weights.
fn head(path: &Path, file: &str) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let opened = File::open(path).map_err(|e| Error::io(path, e))?;
    opened
        .take(512)
        .read_to_end(&mut head)
        .map_err(|e| Error::io(path, e))?;
    refuse_pointer(&head, file)?;
    if head.first() == Some(&b'<') {
        return Err(Error::checkpoint(format!(
            "{file} is a web page, not weights: download it again"
        )));
    }
    Ok(head)
}

/// Reads a weight file; its extension selects the format.
pub(super) fn read_file(path: &Path, file: &str) -> Result<Tensors> {
    let head = head(path, file)?;
    match file.ends_with(".safetensors") {
        true => read_safetensors(path, file),
        false => catching(file, || read_pytorch(path, file, &head)),
    }
}

/// Calls the reader of PyTorch files, which panics on some that PyTorch did not write,
/// such as a tensor with too few arguments.
fn catching<T>(file: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(Error::checkpoint(format!(
            "{file} is damaged, or describes its tensors unlike PyTorch does. Save the model as \
             safetensors, in Python with `save_pretrained(folder, safe_serialization=True)`"
        )))
    })
}

/// Refuses a git-lfs pointer that is stored instead of the file.
pub(super) fn refuse_pointer(bytes: &[u8], file: &str) -> Result<()> {
    if !bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    let size = text.lines().find_map(|line| line.strip_prefix("size "));
    let size = size
        .map(|size| format!(" of {size} bytes"))
        .unwrap_or_default();
    Err(Error::checkpoint(format!(
        "{file} is a git-lfs pointer, not the file{size}: the model was cloned without git-lfs. Run \
         `git lfs pull` in its folder, or download the file"
    )))
}

/// Returns the tensor names of an index, each with the file that holds it.
fn weight_map(index: &str, path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    refuse_pointer(&bytes, index)?;
    let bad = |reason: &str| Error::checkpoint(format!("{index}: {reason}"));
    let json = python_json::parse(&bytes, index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("it has no `weight_map`"))?;
    let shards = map.iter().map(|(tensor, shard)| {
        // Shards must be in the same folder as their index.
        let shard = shard.as_str().filter(|shard| {
            !shard.is_empty() && !shard.starts_with('.') && !shard.contains(['/', '\\'])
        });
        let shard = shard.ok_or_else(|| {
            bad(&format!(
                "`{tensor}` does not name a file in the same folder"
            ))
        })?;
        Ok((tensor.clone(), shard.to_owned()))
    });
    shards.collect()
}

/// Reads the shards of an index.
fn read_shards(
    name: &str,
    index: &str,
    path: &Path,
    find: &dyn Fn(&str) -> Result<Option<PathBuf>>,
) -> Result<Tensors> {
    let map = weight_map(index, path)?;
    let shards: BTreeSet<&str> = map.iter().map(|(_, shard)| shard.as_str()).collect();
    // Fail before reading gigabytes.
    let count = shards.len();
    let mut paths = Vec::new();
    let mut absent = Vec::new();
    for shard in shards {
        match find(shard)? {
            Some(path) => paths.push((shard, path)),
            None => absent.push(shard),
        }
    }
    if !absent.is_empty() {
        return Err(Error::model(
            name,
            format!(
                "{} of its {count} shards are missing: {}",
                absent.len(),
                absent.join(", ")
            ),
        ));
    }
    let mut all = Tensors::new();
    for (shard, path) in paths {
        all.extend(read_file(&path, shard)?);
    }
    Ok(all)
}

/// Reads all floating-point tensors of a safetensors file.
fn read_safetensors(path: &Path, file: &str) -> Result<Tensors> {
    let mut all = Tensors::new();
    stream::read(path, file, |name, shape, values| {
        all.insert(name, (shape, values));
        Ok(())
    })?;
    Ok(all)
}

/// Reads the tensors of a PyTorch file. The pickle is interpreted as data; it
/// can't execute code.
fn read_pytorch(path: &Path, file: &str, head: &[u8]) -> Result<Tensors> {
    let found = open_pytorch(path, file, head)?;
    let bytes = std::fs::metadata(path)
        .map_err(|e| Error::io(path, e))?
        .len();
    let mut all = Tensors::new();
    for (name, info) in found.tensor_infos() {
        if !info.dtype.is_float() {
            continue;
        }
        let element = info.dtype.size_in_bytes() as u64;
        if !can_hold(bytes, info.layout.dims(), element) {
            return Err(Error::checkpoint(format!(
                "{file} is damaged: it has {bytes} bytes, which can't hold its tensor `{name}` of \
                 the shape {:?}",
                info.layout.dims()
            )));
        }
        let Some(tensor) = found.get(name).map_err(|e| cut_pytorch(file, e))? else {
            continue;
        };
        let values = tensor
            .flatten_all()?
            .to_dtype(candle_core::DType::F32)?
            .to_vec1()?;
        all.insert(name.clone(), (tensor.dims().to_vec(), values));
    }
    match all.is_empty() {
        true => Err(Error::checkpoint(format!("{file} holds no tensors"))),
        false => Ok(all),
    }
}

/// Returns whether a file can hold a tensor of this shape. Memory for all values
/// is allocated before they are read.
fn can_hold(bytes: u64, shape: &[usize], element: u64) -> bool {
    /// Largest factor by which a zip compresses.
    const COMPRESSION: u64 = 1032;
    let mut sides = shape.iter();
    let needed = sides.try_fold(element, |needed, side| needed.checked_mul(*side as u64));
    needed.is_some_and(|needed| needed <= bytes.saturating_mul(COMPRESSION))
}

fn cut_pytorch(file: &str, e: candle_core::Error) -> Error {
    let reason = crate::error::without_backtrace(e);
    Error::checkpoint(format!("{file} can't be read: {reason}. Is it cut short?"))
}

/// Opens a PyTorch file and reads its names and shapes.
fn open_pytorch(path: &Path, file: &str, head: &[u8]) -> Result<PthTensors> {
    if !head.starts_with(b"PK") {
        // Magic number of the format before zip, as a pickle.
        let old = head.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
        return Err(Error::checkpoint(match old {
            true => format!(
                "{file} is in the format of PyTorch before 1.6, which is not supported. Convert it: \
                 python -c \"import torch; torch.save(torch.load('{file}', map_location='cpu'), \
                 '{file}')\""
            ),
            false => format!("{file} is not a PyTorch file: it is not a zip archive"),
        }));
    }
    // Training programs often nest the weights in one of these keys.
    let mut found = PthTensors::new(path, None).map_err(|e| cut_pytorch(file, e))?;
    for key in ["state_dict", "model_state_dict", "model"] {
        if found.tensor_infos().is_empty() {
            found = match PthTensors::new(path, Some(key)) {
                Ok(nested) => nested,
                Err(_) => continue,
            };
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_holds_no_tensor_that_is_far_larger() {
        assert!(can_hold(1000, &[], 4) && can_hold(1000, &[0], 4));
        assert!(can_hold(1000, &[25, 10], 4));
        for shape in [&[1 << 40][..], &[1 << 20, 1 << 20], &[usize::MAX, 3]] {
            assert!(!can_hold(1000, shape, 4), "{shape:?}");
        }
    }

    #[test]
    fn a_pickle_that_panics_the_reader_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pytorch_model.bin");
        for function in ["_rebuild_tensor_v2", "_rebuild_parameter"] {
            // A dictionary of `a` and a tensor, whose function has no arguments.
            let pickle = format!("}}X\x01\0\0\0actorch._utils\n{function}\n)Rs.");
            let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored);
            zip.start_file("archive/data.pkl", options).unwrap();
            zip.write_all(pickle.as_bytes()).unwrap();
            zip.finish().unwrap();
            let whole = read_file(&path, "pytorch_model.bin").map(drop);
            let find = |_: &str| -> Result<Option<PathBuf>> { Ok(Some(path.clone())) };
            let names = names(&["pytorch_model.bin"], &find).map(drop);
            for result in [whole, names] {
                let error = result.unwrap_err().to_string();
                let named = error.contains("pytorch_model.bin is damaged");
                assert!(named && error.contains("safetensors"), "{error}");
            }
        }
    }

    #[test]
    fn pytorch_tensors_are_read_with_any_storage_layout() {
        // Written by `tests/fixtures/make_weights.py`.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights");
        let base: Vec<f32> = (0..24u8).map(f32::from).collect();
        let eighths: Vec<f32> = base.iter().map(|x| x / 8.0).collect();
        let transposed = (0..24).map(|i| base[i % 4 * 6 + i / 4]).collect();
        let expected = Tensors::from(
            [
                ("plain", vec![4, 6], base.clone()),
                ("part", vec![3, 4], base[6..18].to_vec()),
                ("shared", vec![24], base.clone()),
                ("transposed", vec![6, 4], transposed),
                ("half", vec![24], eighths.clone()),
                ("brain", vec![24], eighths.clone()),
                ("double", vec![24], eighths),
                ("scalar", vec![], vec![2.5]),
                ("parameter", vec![4], base[..4].to_vec()),
            ]
            .map(|(name, shape, values)| (name.to_owned(), (shape, values))),
        );
        for file in ["plain.bin", "nested.bin"] {
            assert_eq!(
                read_file(&folder.join(file), file).unwrap(),
                expected,
                "{file}"
            );
        }
    }
}

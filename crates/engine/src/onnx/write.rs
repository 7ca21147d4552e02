//! Writes a graph to a file, one weight at a time, so that memory never holds a
//! second copy of the model.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::{
    graph::{Graph, Initializer},
    proto::{
        DataLocation, GRAPH_INITIALIZER, GraphProto, IR_VERSION, MODEL_GRAPH, ModelProto, OPSET,
        OperatorSetIdProto, StringStringEntryProto, TENSOR_RAW_DATA, TensorProto,
    },
};
use crate::{Error, Result};

/// Largest protobuf message, in bytes. A larger model has its weights in a
/// second file.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;
/// Smaller tensors stay in the model, since shapes and axes must be there.
const SMALLEST_EXTERNAL: u64 = 1024;
/// Alignment of values in the second file, for memory mapping.
const ALIGNMENT: u64 = 4096;

/// A tensor's message: the part before its values, and their size.
struct Entry<'a> {
    initializer: &'a Initializer,
    head: Vec<u8>,
    /// Size of the values after the head in bytes; 0 if they are in the second
    /// file.
    inside: u64,
}

impl Graph {
    /// Writes the model to `path`, and its weights to `{path}.data` if they are
    /// too large for one message.
    ///
    /// # Errors
    /// [`Error::Io`] if a file can't be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        self.write_with(path, LARGEST_MESSAGE)
    }

    pub(super) fn write_with(&self, path: &Path, largest: u64) -> Result<()> {
        let failed = |e| Error::io(path, e);
        let weights: u64 = self.initializers.iter().map(Initializer::size).sum();
        // The rest of a model takes a few hundred kilobytes.
        let is_external = weights > largest.saturating_sub(16 << 20);
        let mut data_path = path.as_os_str().to_owned();
        data_path.push(".data");
        let data_path = PathBuf::from(data_path);
        let entries = if is_external {
            self.write_external(&data_path)?
        } else {
            let inside = self.initializers.iter().map(Entry::inside);
            inside.collect()
        };

        let graph = GraphProto {
            node: self.nodes.clone(),
            name: "finetuner".to_owned(),
            initializer: Vec::new(),
            input: self.inputs.clone(),
            output: self.outputs.clone(),
        };
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "finetuner".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: None,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
        };
        // Fields of a message may have any order.
        let graph = graph.encode_to_vec();
        let length = graph.len() as u64 + entries.iter().map(Entry::length).sum::<u64>();
        let mut start = model.encode_to_vec();
        encode_key(MODEL_GRAPH, WireType::LengthDelimited, &mut start);
        encode_varint(length, &mut start);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        file.write_all(&start).map_err(failed)?;
        file.write_all(&graph).map_err(failed)?;
        for entry in &entries {
            let mut key = Vec::new();
            encode_key(GRAPH_INITIALIZER, WireType::LengthDelimited, &mut key);
            encode_varint(entry.message(), &mut key);
            file.write_all(&key).map_err(failed)?;
            file.write_all(&entry.head).map_err(failed)?;
            if entry.inside > 0 {
                let values = entry.initializer.bytes()?;
                file.write_all(&values).map_err(failed)?;
            }
        }
        file.flush().map_err(failed)
    }

    /// Writes large initializers to a second file.
    fn write_external(&self, path: &Path) -> Result<Vec<Entry<'_>>> {
        let failed = |e| Error::io(path, e);
        let location = path.file_name().and_then(|name| name.to_str());
        let location = location.unwrap_or("model.onnx.data").to_owned();
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let mut at = 0u64;
        let mut entries = Vec::new();
        for initializer in &self.initializers {
            if initializer.size() < SMALLEST_EXTERNAL {
                entries.push(Entry::inside(initializer));
                continue;
            }
            let padding = at.next_multiple_of(ALIGNMENT) - at;
            file.write_all(&vec![0; padding as usize]).map_err(failed)?;
            at += padding;
            file.write_all(&initializer.bytes()?).map_err(failed)?;
            let notes = [
                ("location", location.clone()),
                ("offset", at.to_string()),
                ("length", initializer.size().to_string()),
            ];
            at += initializer.size();
            entries.push(Entry::outside(initializer, notes));
        }
        file.flush().map_err(failed)?;
        Ok(entries)
    }
}

impl<'a> Entry<'a> {
    fn proto(initializer: &Initializer) -> TensorProto {
        let mut proto = TensorProto {
            dims: initializer.dims.iter().map(|n| *n as i64).collect(),
            name: initializer.name.clone(),
            ..TensorProto::default()
        };
        proto.set_data_type(initializer.data_type());
        proto
    }

    /// Creates a tensor with its values.
    fn inside(initializer: &'a Initializer) -> Self {
        let mut head = Self::proto(initializer).encode_to_vec();
        let inside = initializer.size();
        if inside > 0 {
            encode_key(TENSOR_RAW_DATA, WireType::LengthDelimited, &mut head);
            encode_varint(inside, &mut head);
        }
        Self {
            initializer,
            head,
            inside,
        }
    }

    /// Creates a tensor with its values in the second file.
    fn outside(initializer: &'a Initializer, notes: [(&str, String); 3]) -> Self {
        let mut proto = Self::proto(initializer);
        proto.set_data_location(DataLocation::External);
        let notes = notes
            .into_iter()
            .map(|(key, value)| StringStringEntryProto {
                key: key.to_owned(),
                value,
            });
        proto.external_data = notes.collect();
        Self {
            initializer,
            head: proto.encode_to_vec(),
            inside: 0,
        }
    }

    /// Returns the size of the message in bytes.
    fn message(&self) -> u64 {
        self.head.len() as u64 + self.inside
    }

    /// Returns the size of the message with its key and length in bytes.
    fn length(&self) -> u64 {
        let key = key_len(GRAPH_INITIALIZER) + encoded_len_varint(self.message());
        key as u64 + self.message()
    }
}

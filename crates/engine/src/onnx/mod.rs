//! Models as ONNX: a graph of standard operators that onnxruntime and others
//! run, from tokens or pixels to embeddings.
//!
//! [`Graph`] is built node by node. The pieces of architectures ([`linear`],
//! [`block`], [`pool_texts`], [`conv_norm`] and so on) mirror the operations of
//! [`crate::ops`] in evaluation. An architecture combines them in the order of
//! its `encode`. Pooling, projection head and normalisation are part of the
//! graph, so that a program needs only a tokenizer or an image's pixels. The
//! batch size and the length of texts are dynamic; `attention_mask` excludes
//! padding.

mod attention;
mod conv;
mod graph;
mod int8;
mod layers;
mod patches;
mod pooling;
mod proto;
mod rounding;
mod write;

pub(crate) use attention::{AttentionContext, Inputs, TextInputs, attention_pool, block};
pub(crate) use conv::{conv_norm, pointwise};
pub(crate) use graph::{Attribute, BATCH, Dim, Edge, Graph};
pub(crate) use layers::{
    affine_columns, curve, gelu, layer_norm, linear, normalize, token_embeddings,
};
pub(crate) use patches::patch_embeddings;
pub(crate) use pooling::{pool_map, pool_texts};
pub(crate) use proto::DataType;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message;

    use super::{
        graph::{Attribute, BATCH, Dim, Graph},
        proto::{DataLocation, DataType, ModelProto},
    };
    use crate::params::Param;

    /// `Gemm(x, weight, bias)`, plus a constant.
    fn graph() -> Graph {
        let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
        let weight = Param::trainable("layer.weight", vec![2, 3], values).unwrap();
        let mut graph = Graph::default();
        let x = graph.input("x", DataType::Float, &[BATCH, Dim::Fixed(3)]);
        let plain = graph.weight(&weight);
        let y = graph.op("Gemm", &[&x, &plain], &[Attribute::Int("transB", 1)]);
        let transposed = graph.transposed(&weight, 0..6, 3);
        assert_eq!(transposed, graph.transposed(&weight, 0..6, 3));
        let z = graph.op("MatMul", &[&x, &transposed], &[]);
        let sum = graph.op("Add", &[&y, &z], &[]);
        let two = graph.scalar(2.0);
        assert_eq!(two, graph.scalar(2.0));
        let product = graph.op("Mul", &[&sum, &two], &[]);
        graph.output(&product, "embedding", &[BATCH, Dim::Fixed(2)]);
        graph
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let values = bytes.as_chunks::<4>().0.iter();
        values.map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn a_model_is_a_complete_message_that_defines_every_value_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        graph().write(&path).unwrap();
        let model = ModelProto::decode(&*std::fs::read(&path).unwrap()).unwrap();
        let graph = model.graph.unwrap();
        let mut known = HashSet::new();
        let given = graph.input.iter().map(|input| &input.name);
        let constants = graph.initializer.iter().map(|tensor| &tensor.name);
        for name in given.chain(constants) {
            assert!(known.insert(name.clone()), "{name} twice");
        }
        for node in &graph.node {
            assert!(node.input.iter().all(|name| known.contains(name)));
            for name in &node.output {
                assert!(known.insert(name.clone()), "{name} twice");
            }
        }
        assert!(
            graph
                .output
                .iter()
                .all(|output| known.contains(&output.name))
        );
        let values = |name: &str| {
            let tensor = graph.initializer.iter().find(|t| t.name == name).unwrap();
            (tensor.dims.clone(), floats(&tensor.raw_data))
        };
        let (dims, plain) = values("layer.weight");
        assert_eq!(
            (dims, plain),
            (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
        );
        let (dims, transposed) = values("layer.weight.transposed");
        assert_eq!(
            (dims, transposed),
            (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0])
        );
    }

    #[test]
    fn a_large_model_has_its_weights_in_a_second_file() {
        let count = 4096;
        let values: Vec<f32> = (0..count).map(|n| n as f32).collect();
        let weight = Param::trainable("table", vec![count], values.clone()).unwrap();
        let bias = Param::trainable("bias", vec![1], vec![7.0]).unwrap();
        let mut graph = Graph::default();
        let (weight, bias) = (graph.weight(&weight), graph.weight(&bias));
        let sum = graph.op("Add", &[&weight, &bias], &[]);
        graph.output(&sum, "embedding", &[Dim::Fixed(count)]);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        graph.write_with(&path, 1024).unwrap();
        let model = ModelProto::decode(&*std::fs::read(&path).unwrap()).unwrap();
        let graph = model.graph.unwrap();
        let [table, bias] = &graph.initializer[..] else {
            panic!("two tensors are expected")
        };
        assert_eq!(
            (table.data_location(), table.raw_data.len()),
            (DataLocation::External, 0)
        );
        assert_eq!(floats(&bias.raw_data), [7.0]);
        let note = |key: &str| {
            let mut notes = table.external_data.iter();
            notes.find(|note| note.key == key).unwrap().value.clone()
        };
        assert_eq!(note("location"), "model.onnx.data");
        let (at, length): (usize, usize) = (
            note("offset").parse().unwrap(),
            note("length").parse().unwrap(),
        );
        let data = std::fs::read(folder.path().join("model.onnx.data")).unwrap();
        assert_eq!(floats(&data[at..at + length]), values);
    }
}

//! A graph of ONNX operators, built node by node.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use super::{
    proto::{
        AttributeProto, AttributeType, DataType, DimensionProto, DimensionValue, NodeProto,
        TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
    rounding,
};
use crate::{Result, kernels, params::Param};

/// A value in a graph, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Edge(pub(super) String);

/// One dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    /// Always this size.
    Fixed(usize),
    /// Any size, by a name that inputs and outputs share.
    Named(&'static str),
}

/// The number of items in a batch.
pub(crate) const BATCH: Dim = Dim::Named("batch-size");
/// The number of tokens of the longest text in a batch.
pub(crate) const SEQUENCE: Dim = Dim::Named("sequence-length");

/// A setting of an operator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    Float(&'static str, f32),
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
}

/// Computes a tensor's values when they are written.
type Compute = Box<dyn Fn() -> Result<Vec<f32>>>;

/// The values of an initializer. Weights stay where they are until they are
/// written, one after the other.
pub(super) enum Source {
    Param(Arc<Param>),
    /// The transposed matrix with that many columns, of these elements.
    Turned(Arc<Param>, Range<usize>, usize),
    Computed(Compute),
    /// These elements, rounded to 8 bits, row by row, and perhaps transposed.
    Int8 {
        param: Arc<Param>,
        own: Range<usize>,
        rows: usize,
        turned: bool,
    },
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

/// A constant tensor.
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) source: Source,
}

impl Initializer {
    pub(super) fn data_type(&self) -> DataType {
        match self.source {
            Source::Ints(_) => DataType::Int64,
            Source::Int8 { .. } => DataType::Int8,
            _ => DataType::Float,
        }
    }

    /// Bytes of the values.
    pub(super) fn size(&self) -> u64 {
        let count = self.dims.iter().product::<usize>() as u64;
        match self.data_type() {
            DataType::Int64 => 8 * count,
            DataType::Int8 => count,
            _ => 4 * count,
        }
    }

    /// The values, little-endian.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(match &self.source {
            Source::Param(param) => floats(&param.to_vec()?),
            Source::Turned(param, own, columns) => {
                let values = param.to_vec()?;
                let mut turned = vec![0.0; own.len()];
                kernels::transpose(&values[own.clone()], *columns, &mut turned);
                floats(&turned)
            }
            Source::Computed(compute) => floats(&compute()?),
            Source::Int8 {
                param,
                own,
                rows,
                turned,
            } => rounding::rounded_rows(&param.to_vec()?[own.clone()], *rows, *turned),
            Source::Floats(values) => floats(values),
            Source::Ints(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }
}

/// A graph under construction.
#[derive(Default)]
pub(crate) struct Graph {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<Initializer>,
    pub(super) inputs: Vec<ValueInfoProto>,
    pub(super) outputs: Vec<ValueInfoProto>,
    /// All names of values.
    names: HashSet<String>,
    /// Small constants by their content.
    constants: HashMap<String, Edge>,
    /// Whether large products and tables are in 8 bits.
    pub(super) int8: bool,
    /// Values that were rounded to 8 bits, each with its scale and its zero.
    rounded: HashMap<Edge, [Edge; 3]>,
}

impl Graph {
    /// A graph whose large products and tables are in 8 bits where `int8` is
    /// set.
    pub(crate) fn new(int8: bool) -> Self {
        Self {
            int8,
            ..Self::default()
        }
    }

    /// A name that no other value has.
    fn fresh(&mut self, wanted: Cow<'_, str>) -> String {
        let mut name = wanted.clone().into_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }

    /// An input of the model.
    pub(crate) fn input(&mut self, name: &str, kind: DataType, dims: &[Dim]) -> Edge {
        let name = self.fresh(name.into());
        self.inputs.push(value_info(&name, kind, dims));
        Edge(name)
    }

    /// Makes a value an output of the model, under this name.
    pub(crate) fn output(&mut self, value: &Edge, name: &str, dims: &[Dim]) {
        let name = self.fresh(name.into());
        self.push("Identity", &[value], vec![name.clone()], &[]);
        self.outputs.push(value_info(&name, DataType::Float, dims));
    }

    /// Adds an operator with one result.
    pub(crate) fn op(&mut self, kind: &str, inputs: &[&Edge], attributes: &[Attribute]) -> Edge {
        let name = self.fresh(kind.to_lowercase().into());
        self.push(kind, inputs, vec![name.clone()], attributes);
        Edge(name)
    }

    fn push(&mut self, kind: &str, inputs: &[&Edge], output: Vec<String>, given: &[Attribute]) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|edge| edge.0.clone()).collect(),
            name: format!("{kind}_{}", self.nodes.len()),
            output,
            op_type: kind.to_owned(),
            attribute: given.iter().map(attribute).collect(),
        });
    }

    /// A parameter as it is. Each is in the model once.
    pub(crate) fn weight(&mut self, param: &Arc<Param>) -> Edge {
        let dims = param.tensor().dims().to_vec();
        self.named(param.name().to_owned(), dims, || {
            Source::Param(param.clone())
        })
    }

    /// A matrix of parameters with that many columns, transposed. It may be a
    /// part of its tensor's elements.
    pub(crate) fn turned(&mut self, param: &Arc<Param>, own: Range<usize>, columns: usize) -> Edge {
        let name = format!("{}.transposed", part_name(param, &own));
        let dims = vec![columns, own.len() / columns.max(1)];
        self.named(name, dims, || Source::Turned(param.clone(), own, columns))
    }

    /// A table of numbers of its own.
    pub(crate) fn table(&mut self, name: &str, dims: Vec<usize>, values: Vec<f32>) -> Edge {
        let name = self.fresh(name.into());
        self.initializers.push(Initializer {
            name: name.clone(),
            dims,
            source: Source::Floats(values),
        });
        Edge(name)
    }

    /// A tensor computed from parameters, under a name of its own.
    pub(crate) fn computed(
        &mut self,
        name: &str,
        dims: Vec<usize>,
        compute: impl Fn() -> Result<Vec<f32>> + 'static,
    ) -> Edge {
        self.named(name.to_owned(), dims, || {
            Source::Computed(Box::new(compute))
        })
    }

    /// A value rounded to 8 bits, its scale and its zero.
    pub(super) fn rounded(&mut self, value: &Edge) -> [Edge; 3] {
        if let Some(known) = self.rounded.get(value) {
            return known.clone();
        }
        let names = ["rounded", "scale", "zero"].map(|name| self.fresh(name.into()));
        self.push("DynamicQuantizeLinear", &[value], names.to_vec(), &[]);
        let edges = names.map(Edge);
        self.rounded.insert(value.clone(), edges.clone());
        edges
    }

    pub(super) fn named(
        &mut self,
        name: String,
        dims: Vec<usize>,
        source: impl FnOnce() -> Source,
    ) -> Edge {
        if self.names.insert(name.clone()) {
            self.initializers.push(Initializer {
                name: name.clone(),
                dims,
                source: source(),
            });
        }
        Edge(name)
    }

    /// One number.
    pub(crate) fn scalar(&mut self, value: f32) -> Edge {
        self.constant(
            Vec::new(),
            Source::Floats(vec![value]),
            format!("{value:?}"),
        )
    }

    /// One whole number.
    pub(crate) fn int(&mut self, value: i64) -> Edge {
        self.constant(
            Vec::new(),
            Source::Ints(vec![value]),
            format!("int {value}"),
        )
    }

    /// A list of whole numbers: a shape, or axes.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Edge {
        let key = format!("ints {values:?}");
        self.constant(vec![values.len()], Source::Ints(values.to_vec()), key)
    }

    fn constant(&mut self, dims: Vec<usize>, source: Source, key: String) -> Edge {
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let name = self.fresh("constant".into());
        self.initializers.push(Initializer {
            name: name.clone(),
            dims,
            source,
        });
        self.constants.insert(key, Edge(name.clone()));
        Edge(name)
    }

    /// A value as another type.
    pub(crate) fn cast(&mut self, value: &Edge, to: DataType) -> Edge {
        self.op("Cast", &[value], &[Attribute::Int("to", to as i64)])
    }

    /// A value in another shape; 0 keeps a dimension, -1 is what is left.
    pub(crate) fn reshape(&mut self, value: &Edge, shape: &[i64]) -> Edge {
        let shape = self.ints(shape);
        self.op("Reshape", &[value, &shape], &[])
    }

    /// A value with its dimensions in another order.
    pub(crate) fn transpose(&mut self, value: &Edge, order: &[i64]) -> Edge {
        self.op(
            "Transpose",
            &[value],
            &[Attribute::Ints("perm", order.to_vec())],
        )
    }

    /// The size of one dimension of a value, as a list of one number.
    pub(crate) fn dimension(&mut self, value: &Edge, axis: i64) -> Edge {
        let shape = self.op("Shape", &[value], &[]);
        let axis = self.ints(&[axis]);
        self.op("Gather", &[&shape, &axis], &[])
    }

    /// A value with more dimensions, of size 1.
    pub(crate) fn unsqueeze(&mut self, value: &Edge, axes: &[i64]) -> Edge {
        let axes = self.ints(axes);
        self.op("Unsqueeze", &[value, &axes], &[])
    }
}

/// A name for some of a parameter's elements; its own for all of them.
pub(super) fn part_name(param: &Param, own: &Range<usize>) -> String {
    match own.len() == param.tensor().elem_count() {
        true => param.name().to_owned(),
        false => format!("{}.from_{}", param.name(), own.start),
    }
}

fn attribute(given: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto::default();
    let (name, kind) = match given {
        Attribute::Float(name, value) => {
            proto.f = Some(*value);
            (name, AttributeType::Float)
        }
        Attribute::Int(name, value) => {
            proto.i = Some(*value);
            (name, AttributeType::Int)
        }
        Attribute::Ints(name, values) => {
            proto.ints.clone_from(values);
            (name, AttributeType::Ints)
        }
    };
    proto.name = (*name).to_owned();
    proto.set_type(kind);
    proto
}

fn value_info(name: &str, kind: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| DimensionProto {
        value: Some(match dim {
            Dim::Fixed(size) => DimensionValue::Size(*size as i64),
            Dim::Named(name) => DimensionValue::Name((*name).to_owned()),
        }),
    });
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: kind as i32,
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            }),
        }),
    }
}

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

/// A value in a graph, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Edge(pub(super) String);

/// A dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// Any size. The name is shared between inputs and outputs.
    Named(&'static str),
}

/// The number of items in a batch.
pub(crate) const BATCH: Dim = Dim::Named("batch-size");
/// The number of tokens of the longest text in a batch.
pub(crate) const SEQUENCE: Dim = Dim::Named("sequence-length");

/// An attribute of an operator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    Float(&'static str, f32),
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
}

/// Computes a tensor's values when they are written.
type Compute = Box<dyn Fn() -> Result<Vec<f32>>>;

/// The values of an initializer. Weights are copied only when they are written,
/// one tensor at a time.
pub(super) enum Source {
    Param(Arc<Param>),
    /// The transpose of a matrix with this number of columns, in this range of
    /// elements.
    Transposed(Arc<Param>, Range<usize>, usize),
    Computed(Compute),
    /// These elements in 8 bits, rounded by row, and optionally transposed.
    Int8 {
        param: Arc<Param>,
        own: Range<usize>,
        rows: usize,
        transposed: bool,
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

    /// Returns the size of the values in bytes.
    pub(super) fn size(&self) -> u64 {
        let count = self.dims.iter().product::<usize>() as u64;
        match self.data_type() {
            DataType::Int64 => 8 * count,
            DataType::Int8 => count,
            _ => 4 * count,
        }
    }

    /// Returns the values, little-endian.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(match &self.source {
            Source::Param(param) => floats(&param.to_vec()?),
            Source::Transposed(param, own, columns) => {
                let values = param.to_vec()?;
                let mut transposed = vec![0.0; own.len()];
                kernels::transpose(&values[own.clone()], *columns, &mut transposed);
                floats(&transposed)
            }
            Source::Computed(compute) => floats(&compute()?),
            Source::Int8 {
                param,
                own,
                rows,
                transposed,
            } => rounding::rounded_rows(&param.to_vec()?[own.clone()], *rows, *transposed),
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
    /// Names of all values.
    names: HashSet<String>,
    /// Small constants by their content.
    constants: HashMap<String, Edge>,
    /// Whether large products and tables use 8 bits.
    pub(super) int8: bool,
    /// Values that were rounded to 8 bits, each with its scale and zero point.
    rounded: HashMap<Edge, [Edge; 3]>,
}

impl Graph {
    /// Creates a graph. If `int8` is set, large products and tables use 8 bits.
    pub(crate) fn new(int8: bool) -> Self {
        Self {
            int8,
            ..Self::default()
        }
    }

    /// Returns a unique name.
    fn fresh(&mut self, wanted: Cow<'_, str>) -> String {
        let mut name = wanted.clone().into_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }

    /// Adds an input of the model.
    pub(crate) fn input(&mut self, name: &str, kind: DataType, dims: &[Dim]) -> Edge {
        let name = self.fresh(name.into());
        self.inputs.push(value_info(&name, kind, dims));
        Edge(name)
    }

    /// Makes a value an output of the model with this name.
    pub(crate) fn output(&mut self, value: &Edge, name: &str, dims: &[Dim]) {
        let name = self.fresh(name.into());
        self.push("Identity", &[value], vec![name.clone()], &[]);
        self.outputs.push(value_info(&name, DataType::Float, dims));
    }

    /// Adds an operator with one output.
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

    /// Adds a parameter unchanged. Each is in the model once.
    pub(crate) fn weight(&mut self, param: &Arc<Param>) -> Edge {
        let dims = param.tensor().dims().to_vec();
        self.named(param.name().to_owned(), dims, || {
            Source::Param(param.clone())
        })
    }

    /// Adds the transpose of a parameter's matrix with this number of columns,
    /// in the range `own` of its elements.
    pub(crate) fn transposed(
        &mut self,
        param: &Arc<Param>,
        own: Range<usize>,
        columns: usize,
    ) -> Edge {
        let name = format!("{}.transposed", part_name(param, &own));
        let dims = vec![columns, own.len() / columns.max(1)];
        self.named(name, dims, || {
            Source::Transposed(param.clone(), own, columns)
        })
    }

    /// Adds constant values under a new name.
    pub(crate) fn table(&mut self, name: &str, dims: Vec<usize>, values: Vec<f32>) -> Edge {
        let name = self.fresh(name.into());
        self.initializers.push(Initializer {
            name: name.clone(),
            dims,
            source: Source::Floats(values),
        });
        Edge(name)
    }

    /// Adds a tensor that is computed from parameters, under this name.
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

    /// Rounds a value to 8 bits; returns it with its scale and zero point.
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

    /// Adds a scalar.
    pub(crate) fn scalar(&mut self, value: f32) -> Edge {
        self.constant(
            Vec::new(),
            Source::Floats(vec![value]),
            format!("{value:?}"),
        )
    }

    /// Adds an integer.
    pub(crate) fn int(&mut self, value: i64) -> Edge {
        self.constant(
            Vec::new(),
            Source::Ints(vec![value]),
            format!("int {value}"),
        )
    }

    /// Adds a list of integers: a shape, or axes.
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

    /// Converts a value to another type.
    pub(crate) fn cast(&mut self, value: &Edge, to: DataType) -> Edge {
        self.op("Cast", &[value], &[Attribute::Int("to", to as i64)])
    }

    /// Reshapes a value; 0 keeps a dimension, -1 infers it.
    pub(crate) fn reshape(&mut self, value: &Edge, shape: &[i64]) -> Edge {
        let shape = self.ints(shape);
        self.op("Reshape", &[value, &shape], &[])
    }

    /// Permutes the dimensions of a value.
    pub(crate) fn transpose(&mut self, value: &Edge, order: &[i64]) -> Edge {
        self.op(
            "Transpose",
            &[value],
            &[Attribute::Ints("perm", order.to_vec())],
        )
    }

    /// Returns the size of a dimension, as a list of one number.
    pub(crate) fn dimension(&mut self, value: &Edge, axis: i64) -> Edge {
        let shape = self.op("Shape", &[value], &[]);
        let axis = self.ints(&[axis]);
        self.op("Gather", &[&shape, &axis], &[])
    }

    /// Inserts dimensions of size 1.
    pub(crate) fn unsqueeze(&mut self, value: &Edge, axes: &[i64]) -> Edge {
        let axes = self.ints(axes);
        self.op("Unsqueeze", &[value, &axes], &[])
    }
}

/// Names a range of a parameter; the whole parameter has its own name.
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

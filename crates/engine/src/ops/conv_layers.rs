//! A sequence of convolutional layers with a shortcut, as in a ResNet block (He
//! et al. 2016, arXiv:1512.03385), as one node of the graph.
//!
//! The node saves the output of each convolution. The backward pass recomputes
//! the values between two layers from it, in one pass over memory.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::{
    Inference, Pass, argument,
    conv::{ConvNorm, InputGradient, Saved, Shortcut, Workspace},
    conv_tensors, floats,
};
use crate::{
    Result,
    kernels::{
        gemm::Precision,
        pool::{Buffer, Pool},
    },
};

impl ConvNorm {
    /// Runs the layer and adds `residual` before the activation.
    pub(crate) fn forward(
        &self,
        pass: &Pass,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let shortcut = residual.map_or(Shortcut::None, Shortcut::Given);
        run_layers(pass, x, &[], self, shortcut)
    }
}

/// Runs the layers `inner` and `last` on `[batch, height, width, channels]`.
pub(crate) fn run_layers(
    pass: &Pass,
    x: &Tensor,
    inner: &[ConvNorm],
    last: &ConvNorm,
    shortcut: Shortcut<'_>,
) -> Result<Tensor> {
    if !pass.is_fused() {
        return conv_tensors::run(pass, x, inner, last, shortcut);
    }
    let op = FusedLayers {
        inner: inner.to_vec(),
        last: last.clone(),
        adds: match shortcut {
            Shortcut::None => Adds::Nothing,
            Shortcut::Input => Adds::Input,
            Shortcut::Layer(layer) => Adds::Layer(layer.clone()),
            Shortcut::Given(_) => Adds::Second,
        },
        inference: pass.inference(),
        precision: pass.precision(),
        pool: pass.pool().clone(),
        saved: Mutex::new(None),
    };
    // candle's operations have up to three arguments. The anchor takes the
    // place of a missing second one.
    let second = match shortcut {
        Shortcut::Given(tensor) => Some(tensor),
        _ => None,
    };
    pass.apply3(x, second, op)
}

/// An owned form of [`Shortcut`].
enum Adds {
    Nothing,
    Input,
    Layer(ConvNorm),
    Second,
}

struct FusedLayers {
    inner: Vec<ConvNorm>,
    last: ConvNorm,
    adds: Adds,
    inference: Option<Inference>,
    precision: Precision,
    pool: Pool,
    saved: Mutex<Option<SavedLayers>>,
}

struct SavedLayers {
    inner: Vec<Saved>,
    last: Saved,
    /// Of the shortcut's layer, if it has one.
    shortcut: Option<Saved>,
}

/// The gradient of an input, if needed.
type Gradient = Option<Vec<f32>>;

impl FusedLayers {
    fn workspace(&self) -> Workspace<'_> {
        Workspace {
            pool: &self.pool,
            precision: self.precision,
        }
    }

    /// Returns a layer's output in a buffer.
    fn result(&self, layer: &ConvNorm, saved: &Saved) -> candle_core::Result<Buffer> {
        let mut result = self.pool.take(saved.len());
        layer.finish(saved, None, &mut result)?;
        Ok(result)
    }

    /// Returns the residual; `made` is the output of the shortcut's layer.
    fn residual<'a>(
        &self,
        x: &'a [f32],
        made: Option<&'a [f32]>,
        second: &'a [f32],
    ) -> Option<&'a [f32]> {
        match self.adds {
            Adds::Nothing => None,
            Adds::Input => Some(x),
            Adds::Layer(_) => made,
            Adds::Second => Some(second),
        }
    }

    fn forward(
        &self,
        x: &[f32],
        shape: &[usize],
        second: &[f32],
    ) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        if let Some(Inference { int8 }) = self.inference {
            return self.infer(int8, x, shape, second);
        }
        let workspace = self.workspace();
        // Returns a layer's output, its shape, and the values for the backward
        // pass.
        let run = |layer: &ConvNorm, x: &[f32], shape: &[usize]| {
            let saved = layer.begin(&workspace, x, shape)?;
            let shape = saved.shape();
            Ok::<_, candle_core::Error>((self.result(layer, &saved)?, shape, saved))
        };
        let (made, shortcut) = match &self.adds {
            Adds::Layer(layer) => {
                let (made, _, saved) = run(layer, x, shape)?;
                (Some(made), Some(saved))
            }
            _ => (None, None),
        };
        let mut shape = shape.to_vec();
        let mut inner = Vec::with_capacity(self.inner.len());
        let mut input: Option<Buffer> = None;
        for layer in &self.inner {
            let (result, result_shape, saved) = run(layer, input.as_deref().unwrap_or(x), &shape)?;
            (input, shape) = (Some(result), result_shape);
            inner.push(saved);
        }
        let last = self
            .last
            .begin(&workspace, input.as_deref().unwrap_or(x), &shape)?;
        drop(input);
        let residual = self.residual(x, made.as_deref(), second);
        let mut y = vec![0.0; last.len()];
        self.last.finish(&last, residual, &mut y)?;
        let shape = last.shape();
        let saved = SavedLayers {
            inner,
            last,
            shortcut,
        };
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok((y, shape))
    }

    /// Computes the forward pass in inference.
    fn infer(
        &self,
        int8: bool,
        x: &[f32],
        shape: &[usize],
        second: &[f32],
    ) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let settings = (&self.pool, int8);
        let made = match &self.adds {
            Adds::Layer(layer) => Some(layer.infer(&self.pool, int8, (x, shape), None)?.0),
            _ => None,
        };
        let residual = self.residual(x, made.as_deref(), second);
        let (y, shape) = infer_layers(settings, (x, shape), &self.inner, &self.last, residual)?;
        Ok((y.to_vec(), shape))
    }

    /// Returns the gradients of `x` and of the second argument, if needed.
    fn backward(
        &self,
        x: &[f32],
        second: &[f32],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<(Gradient, Gradient)> {
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(saved) = saved else {
            candle_core::bail!("the backward pass of layers needs its own forward pass")
        };
        let workspace = self.workspace();
        let made = match (&self.adds, &saved.shortcut) {
            (Adds::Layer(layer), Some(saved)) => Some(self.result(layer, saved)?),
            _ => None,
        };
        let residual = self.residual(x, made.as_deref(), second);
        let mut before = self
            .last
            .curve_backward(&workspace, &saved.last, residual, g);
        drop(made);

        // The shortcut's part of the input gradient. The layers add theirs.
        let mut dx = wanted.then(|| match self.adds {
            Adds::Input => before.du.to_vec(),
            _ => vec![0.0; x.len()],
        });
        if let (Adds::Layer(layer), Some(saved)) = (&self.adds, saved.shortcut) {
            let before = layer.curve_backward(&workspace, &saved, None, &before.du);
            let dx = dx.as_deref_mut().map(InputGradient::Add);
            layer.backward(&workspace, saved, before, x, dx)?;
        }
        let d_second = matches!(self.adds, Adds::Second).then(|| before.du.to_vec());

        let (mut layer, mut after) = (&self.last, saved.last);
        for (next, saved) in self.inner.iter().zip(saved.inner).rev() {
            let input = self.result(next, &saved)?;
            let mut d_input = self.pool.take(input.len());
            let into = InputGradient::Write(&mut d_input);
            layer.backward(&workspace, after, before, &input, Some(into))?;
            drop(input);
            before = next.curve_backward(&workspace, &saved, None, &d_input);
            (layer, after) = (next, saved);
        }
        let into = dx.as_deref_mut().map(InputGradient::Add);
        layer.backward(&workspace, after, before, x, into)?;
        Ok((dx, d_second))
    }
}

/// Runs layers in inference, with `residual` added before the last activation.
/// Returns the output and its shape.
pub(super) fn infer_layers(
    (pool, int8): (&Pool, bool),
    (x, shape): (&[f32], &[usize]),
    inner: &[ConvNorm],
    last: &ConvNorm,
    residual: Option<&[f32]>,
) -> candle_core::Result<(Buffer, Vec<usize>)> {
    let mut input: Option<(Buffer, Vec<usize>)> = None;
    for layer in inner {
        let from = input.as_ref().map_or((x, shape), |(x, shape)| (x, shape));
        input = Some(layer.infer(pool, int8, from, None)?);
    }
    let from = input.as_ref().map_or((x, shape), |(x, shape)| (x, shape));
    last.infer(pool, int8, from, residual)
}

impl CustomOp3 for FusedLayers {
    fn name(&self) -> &'static str {
        "convolutions"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
        _anchor: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let second = argument(second, second_layout)?;
        let (y, shape) = self.forward(argument(x, layout)?, layout.dims(), second)?;
        Ok((CpuStorage::F32(y), Shape::from(shape)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        second: &Tensor,
        _anchor: &Tensor,
        _result: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let wanted = x.track_op() && !x.is_variable();
        let (dx, d_second) = self.backward(&floats(x)?, &floats(second)?, &floats(&g)?, wanted)?;
        let tensor = |d: Gradient, like: &Tensor| {
            d.map(|d| Tensor::from_vec(d, like.shape(), like.device()))
                .transpose()
        };
        Ok((tensor(dx, x)?, tensor(d_second, second)?, None))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{
        kernels::simd::Curve,
        ops::{
            BatchNorm, ConvKind, Kernels, Padding, Runtime,
            testing::{assert_close, noise, params},
        },
        params::Params,
    };

    const WIDTH: usize = 6;

    fn layer(params: &Params, name: &str, kernel: usize, stride: usize, curve: Curve) -> ConvNorm {
        let shape = [WIDTH, WIDTH, kernel, kernel];
        ConvNorm {
            kind: ConvKind::Full,
            weight: params.get(&format!("{name}.conv"), &shape).ok(),
            inputs: WIDTH,
            outputs: WIDTH,
            kernel,
            stride,
            padding: Padding::Both(kernel / 2),
            norm: BatchNorm::load(params, name, WIDTH, 1e-3).unwrap(),
            curve,
        }
    }

    /// Runs one node per layer; tests of `conv` compare such nodes with
    /// candle's operations.
    fn one_by_one(
        pass: &Pass,
        x: &Tensor,
        inner: &[ConvNorm],
        last: &ConvNorm,
        shortcut: Shortcut<'_>,
    ) -> Tensor {
        let residual = match shortcut {
            Shortcut::None => None,
            Shortcut::Input => Some(x.clone()),
            Shortcut::Layer(layer) => Some(layer.forward(pass, x, None).unwrap()),
            Shortcut::Given(tensor) => Some(tensor.clone()),
        };
        let mut x = x.clone();
        for layer in inner {
            x = layer.forward(pass, &x, None).unwrap();
        }
        last.forward(pass, &x, residual.as_ref()).unwrap()
    }

    #[test]
    fn layers_in_one_node_equal_layers_one_by_one() {
        let mut shapes = Vec::new();
        for name in ["a", "b", "c", "s"] {
            let kernel = if name == "a" || name == "c" { 3 } else { 1 };
            shapes.push((format!("{name}.conv"), vec![WIDTH, WIDTH, kernel, kernel]));
            shapes.extend(BatchNorm::tensors(name, WIDTH));
        }
        let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(n, s)| (&**n, &**s)).collect();
        let running: Vec<&str> = shapes.iter().map(|(name, _)| *name).collect();
        let running: Vec<&str> = running
            .into_iter()
            .filter(|n| n.contains("running"))
            .collect();
        let params = params(&shapes, &running);
        for param in params.iter().filter(|p| p.name().ends_with("running_var")) {
            param
                .update(|v| v.iter_mut().for_each(|v| *v = v.abs() + 0.5))
                .unwrap();
        }
        let runtime = Runtime::new(&params).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let variable = |seed, side: usize| {
            let values = noise(seed, 2 * side * side * WIDTH);
            Var::from_vec(values, (2, side, side, WIDTH), &Device::Cpu).unwrap()
        };
        for (count, stride) in [(1, 1), (2, 1), (3, 1), (1, 2), (3, 2)] {
            let layers = [
                layer(&params, "a", 3, stride, Curve::Relu),
                layer(&params, "b", 1, 1, Curve::Swish),
                layer(&params, "c", 3, 1, Curve::Relu),
            ];
            let (last, inner) = layers[..count].split_last().unwrap();
            let projection = layer(&params, "s", 1, stride, Curve::Identity);
            let (x, other) = (variable(1, 6), variable(2, 6 / stride));
            let (input, given) = (
                (x.as_tensor() * 1.0).unwrap(),
                (other.as_tensor() * 1.0).unwrap(),
            );
            let mut shortcuts = vec![
                ("none", Shortcut::None),
                ("layer", Shortcut::Layer(&projection)),
                ("given", Shortcut::Given(&given)),
            ];
            if stride == 1 {
                shortcuts.push(("input", Shortcut::Input));
            }
            for (name, shortcut) in shortcuts {
                let run = |pass: &Pass, together: bool| match together {
                    true => run_layers(pass, &input, inner, last, shortcut).unwrap(),
                    false => one_by_one(pass, &input, inner, last, shortcut),
                };
                let still = runtime.inference();
                let what = format!("{count} layers, step {stride}, {name}");
                assert_close(&flat(&run(&still, true)), &flat(&run(&still, false)), &what);

                let mut composite = runtime.clone();
                composite.kernels = Kernels::Composite;
                let seen = [(&runtime, true), (&runtime, false), (&composite, true)];
                let seen = seen.map(|(runtime, together)| {
                    params.zero_grad();
                    let y = run(&runtime.training(), together);
                    let weights = noise(9, y.elem_count());
                    let weights = Tensor::from_vec(weights, y.shape(), y.device()).unwrap();
                    let loss = (&y * weights).unwrap().sum_all().unwrap();
                    let grads = loss.backward().unwrap();
                    params.collect(&grads).unwrap();
                    let mut all = vec![flat(&y)];
                    for variable in [&x, &other] {
                        all.push(grads.get(variable).map(flat).unwrap_or_default());
                    }
                    all.extend(params.iter().filter_map(|p| p.grad()).map(|g| g.clone()));
                    all
                });
                for form in [0, 2] {
                    for (i, (found, expected)) in seen[form].iter().zip(&seen[1]).enumerate() {
                        assert_close(found, expected, &format!("{what}: {i}, form {form}"));
                    }
                }
                assert!(seen[0][1].iter().any(|g| *g != 0.0), "{what}: no gradient");
            }
        }
    }
}

//! Compares the kernels with exact sums.

use super::{
    super::{
        Threads,
        panels::{Factor, Product, multiply},
    },
    *,
};
use crate::ops::testing::noise;

fn exact(x: &[f32], weight: &[f32], inputs: usize, row: usize, column: usize) -> f64 {
    let x = &x[row * inputs..][..inputs];
    let w = &weight[column * inputs..][..inputs];
    x.iter()
        .zip(w)
        .map(|(x, w)| f64::from(*x) * f64::from(*w))
        .sum()
}

#[test]
fn every_kernel_multiplies_every_number_of_rows() {
    let inputs = 37;
    let (x, weight) = (noise(1, ROWS * 40), noise(2, 45 * inputs));
    let factor = Packed::of_rows(&weight, inputs);
    for rows in 1..=ROWS {
        let mut found = Vec::new();
        for panel in 0..2 {
            let lines = &factor.panels[panel * inputs * LINES..][..inputs * LINES];
            let layout = Rows::whole(40, inputs);
            #[cfg(target_arch = "x86_64")]
            let prefetch = PrefetchLines {
                start: x.as_ptr(),
                step: 1,
            };
            let mut sums = [f32::NAN; MAX_ROWS * COLS];
            portable(&x, layout, rows, lines, &mut sums);
            found.push((panel, sums));
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the CPU has the instructions, and the sizes are valid.
                    unsafe { avx512::tile(&x, layout, rows, lines, prefetch, &mut sums) };
                    found.push((panel, sums));
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    unsafe { avx2::tile(&x, layout, rows, lines, prefetch, &mut sums) };
                    found.push((panel, sums));
                }
            }
        }
        for (panel, sums) in found {
            for (at, sum) in sums.iter().enumerate().take(rows * COLS) {
                let (row, column) = (at / COLS, panel * COLS + at % COLS);
                let x = &x[row * 40..][..inputs];
                let expected = if column < 45 {
                    exact(x, &weight, inputs, 0, column)
                } else {
                    0.0
                };
                assert!((f64::from(*sum) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn products_have_bias_residual_and_activation_at_any_size() {
    let relu = |x: &[f32], y: &mut [f32]| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.max(0.0);
        }
    };
    // Partial tiles, several blocks, and panels split among tasks.
    let sizes = [(1, 5, 3), (13, 64, 70), (100, 33, 32), (9, 256, 300)];
    let threads = [Threads::All, Threads::One];
    for ((rows, inputs, outputs), threads) in sizes
        .into_iter()
        .flat_map(|size| threads.map(|threads| (size, threads)))
    {
        let (x, residual) = (noise(1, rows * inputs), noise(2, rows * outputs));
        let weights = [noise(3, outputs * inputs), noise(4, 31 * inputs)];
        let (scale, bias) = (noise(6, outputs), noise(5, outputs));
        let factors = weights
            .each_ref()
            .map(|weight| Factor::new(weight, inputs, false));
        let mut outs = [vec![f32::NAN; rows * outputs], vec![f32::NAN; rows * 31]];
        let [first, second] = &mut outs;
        multiply(
            &x,
            &mut [
                Product {
                    scale: Some(&scale),
                    bias: Some(&bias),
                    residual: Some(&residual),
                    activate: Some(relu),
                    ..Product::new(&factors[0], first)
                },
                Product::new(&factors[1], second),
            ],
            threads,
        );
        for (at, found) in outs[0].iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            let sum = exact(&x, &weights[0], inputs, row, column) * f64::from(scale[column])
                + f64::from(bias[column])
                + f64::from(residual[at]);
            assert!((f64::from(*found) - sum.max(0.0)).abs() < 2e-5);
        }
        for (at, found) in outs[1].iter().enumerate() {
            let sum = exact(&x, &weights[1], inputs, at / 31, at % 31);
            assert!((f64::from(*found) - sum).abs() < 2e-5);
        }
    }
}

#[test]
fn the_product_of_a_row_does_not_depend_on_other_rows() {
    let (inputs, outputs) = (70, 50);
    let factor = Factor::new(&noise(1, outputs * inputs), inputs, false);
    let x = noise(2, 200 * inputs);
    let product = |rows: &[f32]| {
        let mut out = vec![0.0; rows.len() / inputs * outputs];
        multiply(rows, &mut [Product::new(&factor, &mut out)], Threads::All);
        out
    };
    let all = product(&x);
    for row in [0, 7, 95, 96, 199] {
        let alone = product(&x[row * inputs..][..inputs]);
        assert_eq!(alone, all[row * outputs..][..outputs]);
    }
}

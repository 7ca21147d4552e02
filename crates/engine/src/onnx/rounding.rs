//! Weights in 8 bits, with a scale per row.

/// The largest rounded weight. -128 is unused, so that the range is symmetric.
const LARGEST: f32 = 127.0;

/// Returns the scale of each row, which maps its largest value to [`LARGEST`].
pub(super) fn row_scales(values: &[f32], rows: usize) -> Vec<f32> {
    let width = (values.len() / rows.max(1)).max(1);
    let scale = values.chunks_exact(width).map(|row| {
        let largest = row.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        // A row of zeros stays zero.
        if largest == 0.0 {
            1.0
        } else {
            largest / LARGEST
        }
    });
    scale.collect()
}

/// Returns the rounded rows of a matrix, transposed if `transposed` is set.
pub(super) fn rounded_rows(values: &[f32], rows: usize, transposed: bool) -> Vec<u8> {
    let width = (values.len() / rows.max(1)).max(1);
    let scales = row_scales(values, rows);
    let mut out = vec![0u8; values.len()];
    for (i, (row, scale)) in values.chunks_exact(width).zip(&scales).enumerate() {
        for (j, x) in row.iter().enumerate() {
            let index = if transposed {
                j * rows + i
            } else {
                i * width + j
            };
            out[index] = ((x / scale).round() as i8).cast_unsigned();
        }
    }
    out
}

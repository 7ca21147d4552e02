//! Arrays of numbers in documents.

/// An array of numbers.
///
/// ```
/// use finetuner_protocol::NdArray;
///
/// if let NdArray::Dense { shape, dtype, .. } = NdArray::from_f32(&[1.0, 2.0], &[1, 2]) {
///     assert_eq!((shape, dtype.as_str()), (vec![1, 2], "<f4"));
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum NdArray {
    /// Dense array, in row-major order.
    Dense {
        /// Bytes of the elements.
        buffer: Vec<u8>,
        /// Size of each dimension.
        shape: Vec<u32>,
        /// Type of the elements in numpy's notation, such as `<f4`.
        dtype: String,
        /// Library of the array; `numpy` by default.
        class: String,
    },
    /// Sparse array, kept but not interpreted.
    Sparse(Opaque),
}

/// Encoded bytes, kept unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque(pub(super) Vec<u8>);

impl NdArray {
    /// Creates a dense array of 32-bit floats in row-major order.
    ///
    /// `shape` is the size of each dimension.
    ///
    /// ```
    /// use finetuner_protocol::NdArray;
    ///
    /// let array = NdArray::from_f32(&[1.0, 2.0], &[2]);
    /// assert_eq!(array.to_f32(), Some(vec![1.0, 2.0]));
    /// ```
    #[must_use]
    pub fn from_f32(values: &[f32], shape: &[u32]) -> Self {
        Self::Dense {
            buffer: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            shape: shape.to_vec(),
            dtype: "<f4".to_owned(),
            class: "numpy".to_owned(),
        }
    }

    /// Returns the values of a dense array as 32-bit floats in row-major order.
    ///
    /// It is `None` if the array is sparse or its elements are not numbers.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        macro_rules! read {
            ($kind:ty, $buffer:expr) => {
                $buffer
                    .chunks_exact(size_of::<$kind>())
                    .map(|bytes| {
                        let mut value = [0; size_of::<$kind>()];
                        value.copy_from_slice(bytes);
                        <$kind>::from_le_bytes(value) as f32
                    })
                    .collect()
            };
        }
        let Self::Dense { buffer, dtype, .. } = self else {
            return None;
        };
        Some(match dtype.as_str() {
            "<f4" => read!(f32, buffer),
            "<f8" => read!(f64, buffer),
            "<i4" => read!(i32, buffer),
            "<i8" => read!(i64, buffer),
            "|u1" => read!(u8, buffer),
            "|i1" => read!(i8, buffer),
            _ => return None,
        })
    }
}

//! Input batches of models.

use std::ops::Range;

use candle_core::Tensor;

use crate::{Result, cloud::CloudBatch, tokenizer::TokenBatch};

/// A batch of inputs of one kind.
#[derive(Clone, Debug)]
pub enum Input {
    /// Token ids.
    Texts(TokenBatch),
    /// Images, `[batch, 3, height, width]`, as [`crate::image::ImageProcessor`]
    /// prepares them.
    Images(Tensor),
    /// Feature vectors, `[batch, length]`.
    Features(Tensor),
    /// Point clouds, as [`crate::cloud::CloudSampler`] prepares them.
    PointClouds(CloudBatch),
}

impl Input {
    /// Returns the items in a range of the batch, which must exist.
    pub(crate) fn slice(&self, range: Range<usize>) -> Result<Self> {
        let rows = |x: &Tensor| x.narrow(0, range.start, range.len());
        Ok(match self {
            Self::Texts(texts) => Self::Texts(texts.slice(range)),
            Self::Images(pixels) => Self::Images(rows(pixels)?),
            Self::Features(features) => Self::Features(rows(features)?),
            Self::PointClouds(clouds) => Self::PointClouds(clouds.slice(range)),
        })
    }

    /// Returns whether these items are texts. `member` is their position in the
    /// examples of a batch. Cached outputs of a frozen model, which are
    /// features, belong to texts if they are the first member.
    pub(crate) fn is_texts(&self, member: usize) -> bool {
        match self {
            Self::Texts(_) => true,
            Self::Features(_) => member == 0,
            Self::Images(_) | Self::PointClouds(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_slice_has_the_items_of_its_range() {
        let mut texts = TokenBatch::new(vec![1, 2, 3, 4, 5, 6], vec![2, 1, 3]);
        texts.left_out = 1;
        let Input::Texts(part) = Input::Texts(texts).slice(1..3).unwrap() else {
            panic!("other items");
        };
        assert_eq!((part.ids, part.lengths), (vec![3, 4, 5, 6], vec![1, 3]));
        assert_eq!(part.left_out, 1);

        let rows = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap();
        let rows = rows.reshape((3, 2)).unwrap();
        for input in [Input::Features(rows.clone()), Input::Images(rows)] {
            let (Input::Features(part) | Input::Images(part)) = input.slice(1..2).unwrap() else {
                panic!("other items");
            };
            assert_eq!(part.to_vec2::<f32>().unwrap(), [[2.0, 3.0]]);
        }

        let clouds = CloudBatch {
            points: vec![[1.0; 3], [2.0; 3], [3.0; 3]],
            lengths: vec![2, 1],
        };
        let Input::PointClouds(part) = Input::PointClouds(clouds).slice(1..2).unwrap() else {
            panic!("other items");
        };
        assert_eq!((part.points, part.lengths), (vec![[3.0; 3]], vec![1]));
    }
}

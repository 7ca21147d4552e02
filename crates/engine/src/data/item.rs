//! Items to embed.

use std::sync::Arc;

use super::{
    key::{hash_value, numbers_key},
    stored::Stored,
};

/// Something to embed.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A text.
    Text(Arc<str>),
    /// An encoded image: PNG, JPEG, GIF, WebP or BMP.
    Image(Arc<[u8]>),
    /// An image stored in a file.
    Stored(Stored),
    /// Features that another program computed.
    Features(Arc<[f32]>),
    /// A point cloud.
    PointCloud(Arc<[[f32; 3]]>),
}

impl Item {
    pub(crate) fn content_key(&self) -> u64 {
        match self {
            Self::Text(text) => hash_value(&**text),
            Self::Image(bytes) => hash_value(&**bytes),
            Self::Stored(stored) => stored.content_key(),
            Self::Features(values) => numbers_key(values),
            Self::PointCloud(points) => numbers_key(points.as_flattened()),
        }
    }
}

//! Reads features and point clouds of documents.

use std::sync::Arc;

use finetuner_protocol::{Content, Document, NdArray};

use crate::cloud::check_cloud;

/// Returns the features of a document, or why it has none.
pub(super) fn features(document: &Document) -> Result<Vec<f32>, String> {
    let values = match &document.content {
        Some(Content::Tensor(array)) => array.to_f32(),
        _ => None,
    };
    let values = values.filter(|values| !values.is_empty());
    let values = values.ok_or("it holds no tensor of numbers")?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("its tensor holds {value}"));
    }
    Ok(values)
}

/// Returns the point cloud of a document, or why it has none.
pub(super) fn point_cloud(document: &Document) -> Result<Arc<[[f32; 3]]>, String> {
    let Some(Content::Tensor(array @ NdArray::Dense { shape, .. })) = &document.content else {
        return Err(
            "it holds no point cloud: give a tensor of the shape [points, 3]. The CSV option \
             `create_point_clouds` draws one from a mesh"
                .to_owned(),
        );
    };
    let &[count, 3] = shape.as_slice() else {
        return Err(format!(
            "its tensor has the shape {shape:?}; a point cloud has the shape [points, 3]"
        ));
    };
    let values = array.to_f32().unwrap_or_default();
    let points: Vec<[f32; 3]> = values.as_chunks().0.to_vec();
    if points.len() != count as usize {
        return Err("its tensor does not hold numbers".to_owned());
    }
    check_cloud(&points).map_err(|reason| format!("its point cloud {reason}"))?;
    Ok(points.into())
}

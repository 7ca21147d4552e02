//! What is wrong with data, before anything of it is sent: not just the first
//! fault, but all of them up to a limit.

use finetuner_protocol::{Content, Document};

/// What no backend can use, in a document or one of its parts.
pub(crate) fn check_document(document: &Document) -> Result<(), String> {
    let has_parts = !document.chunks.is_empty() || !document.matches.is_empty();
    let is_empty = match &document.content {
        None => document.uri.is_empty() && document.embedding.is_none(),
        Some(Content::Text(_) | Content::Tensor(_)) => false,
        Some(Content::Blob(bytes)) => bytes.is_empty(),
    };
    if is_empty && !has_parts {
        return Err(format!(
            "document `{}` is empty: give it a text, a blob, a tensor, a uri or chunks",
            document.id
        ));
    }
    for chunk in &document.chunks {
        check_document(chunk)?;
    }
    Ok(())
}

/// Returns the path of a uri that names a local file; none for an address.
pub(crate) fn local_path(uri: &str) -> Option<std::path::PathBuf> {
    if uri.is_empty() || uri.starts_with("data:") {
        return None;
    }
    // A text may hold an address further behind, and a drive letter reads as a
    // scheme of one letter.
    let is_scheme = |scheme: &str| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    match uri.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => match url::Url::parse(uri) {
            // A file of another machine is no file here.
            Ok(url) if url.scheme() == "file" => {
                Some(url.to_file_path().unwrap_or_else(|()| uri.into()))
            }
            _ => None,
        },
        // `file:/a/b.png` has no host.
        _ if uri.starts_with("file:/") => {
            let path = url::Url::parse(uri)
                .ok()
                .and_then(|url| url.to_file_path().ok());
            Some(path.unwrap_or_else(|| uri.into()))
        }
        _ => Some(uri.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_addresses() {
        for uri in [
            "https://a/b.png",
            "data:image/png;base64,AA",
            "",
            "s3://x/y",
        ] {
            assert_eq!(local_path(uri), None, "{uri}");
        }
        assert_eq!(local_path("a/b.png"), Some("a/b.png".into()));
        assert_eq!(local_path("file:///a/b.png"), Some("/a/b.png".into()));
        assert_eq!(local_path("file:/a/b.png"), Some("/a/b.png".into()));
        for text in [
            "Note: a red dress (see http://shop.example/1)",
            "see http://shop.example/1",
            "C:/pictures/a.png",
            "file://another/a.png",
        ] {
            assert_eq!(local_path(text), Some(text.into()), "{text}");
        }
    }

    #[test]
    fn empty_documents_are_found_wherever_they_are() {
        let empty = Document::with_id("e");
        assert!(check_document(&empty).is_err());
        let parent = Document::new()
            .with_chunk(Document::text("a"))
            .with_chunk(empty);
        assert!(check_document(&parent).unwrap_err().contains("`e`"));
        assert_eq!(check_document(&Document::uri("a.png")), Ok(()));
    }
}

//! Distinguishes URIs of local files from other URIs.

/// Returns the path of a URI that names a local file, or `None` for other URIs.
///
/// A plain path is a local file. An invalid `file:` URI is returned unchanged as a
/// path, so that the error for a missing file shows it.
pub(crate) fn local_path(uri: &str) -> Option<std::path::PathBuf> {
    if uri.is_empty() || uri.starts_with("data:") {
        return None;
    }
    // A text may contain a URL. A scheme of one letter is a Windows drive.
    let is_scheme = |scheme: &str| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    match uri.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => match url::Url::parse(uri) {
            // The URI of a file on another host is not a local path.
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
    fn local_files_are_distinguished_from_urls() {
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
}

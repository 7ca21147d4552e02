//! Fetching of images that documents refer to by address. Workers fetch them
//! from addresses that [`outside`] allows.

use std::time::Duration;

use finetuner_protocol::{Content, Document, text::start_of};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Client;
use url::Url;

use crate::{outside, requests::root_cause};

/// Maximum size of an image, in bytes.
const MAX_BYTES: usize = 32 << 20;
/// Time limit for an image.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Number of images that are fetched at the same time.
const AT_ONCE: usize = 8;
/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 5;

/// A fetcher of images.
#[derive(Clone)]
pub(crate) struct Images {
    client: Client,
    private: bool,
}

/// Returns the address of a document's image, if the document has no content.
pub(crate) fn address_of(document: &Document) -> Option<Url> {
    if document.content.is_some() {
        return None;
    }
    let url = Url::parse(&document.uri).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

impl Images {
    /// Creates a fetcher. `private` allows addresses of this machine and of private
    /// networks.
    pub(crate) fn new(private: bool) -> Result<Self, String> {
        let client = outside::client(private, TIMEOUT, MAX_REDIRECTS)?;
        Ok(Self { client, private })
    }

    /// Fetches all images that documents and their chunks refer to.
    pub(crate) async fn fetch_all(&self, documents: &mut [Document]) -> Result<(), String> {
        let mut wanted = Vec::new();
        for document in documents.iter_mut() {
            gather(document, &mut wanted);
        }
        stream::iter(wanted)
            .map(|(document, url)| async move {
                let fetched = self.fetch(&url).await;
                let bytes = fetched.map_err(|e| {
                    let url = outside::without_secrets(&url);
                    let url = start_of(url.as_str());
                    format!("document `{}`: {url}: {e}", document.id)
                })?;
                document.content = Some(Content::Blob(bytes));
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
        let hint = "load the image into a blob before pushing";
        outside::check(url, self.private).map_err(|e| format!("{e}: {hint}"))?;
        let answer = self.client.get(url.clone()).send().await;
        let answer = answer.map_err(root_cause)?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut bytes = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.try_next().await.map_err(root_cause)? {
            if bytes.len() + piece.len() > MAX_BYTES {
                return Err(format!("the image is larger than {} MiB", MAX_BYTES >> 20));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

fn gather<'a>(document: &'a mut Document, wanted: &mut Vec<(&'a mut Document, Url)>) {
    if let Some(url) = address_of(document) {
        wanted.push((document, url));
        return;
    }
    for part in &mut document.chunks {
        gather(part, wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(uri: &str) -> Document {
        Document::new().with_chunk(Document::uri(uri).with_modality("image"))
    }

    /// Starts a server that sends `answer` to every request.
    fn serve(answer: &'static [u8]) -> String {
        use std::io::{Read, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let _ = connection.read(&mut head);
                let _ = connection.write_all(answer);
            }
        });
        format!("http://{address}/shoe.png")
    }

    async fn fetch(uri: &str, private: bool) -> Result<Vec<Document>, String> {
        let mut documents = vec![image(uri)];
        Images::new(private)
            .unwrap()
            .fetch_all(&mut documents)
            .await?;
        Ok(documents)
    }

    #[tokio::test]
    async fn images_are_fetched_if_allowed() {
        let url = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc");
        let documents = fetch(&url, true).await.unwrap();
        assert_eq!(documents[0].chunks[0].as_blob(), Some(&b"abc"[..]));
        // Existing content, and a URI that is not an address, are left unchanged.
        let documents = fetch("shoe.png", false).await.unwrap();
        assert_eq!(documents[0].chunks[0].content, None);
        let by_name = url.replace("127.0.0.1", "localhost");
        for refused in [
            &url,
            &by_name,
            "http://[::1]/x",
            "http://169.254.169.254/latest",
        ] {
            let error = fetch(refused, false).await.unwrap_err();
            assert!(error.contains("private network"), "{error}");
            assert!(error.contains("document `"), "{error}");
        }
    }

    #[tokio::test]
    async fn responses_that_are_not_images_are_errors() {
        let url = serve(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        let error = fetch(&url, true).await.unwrap_err();
        assert!(error.contains("404"), "{error}");
        let url = serve(b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n");
        let error = fetch(&url, true).await.unwrap_err();
        assert!(error.contains("302"), "{error}");
        let url = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\nabc");
        assert!(fetch(&url, true).await.is_err());
    }
}

//! Downloads that resume in the middle of a file.

use super::*;

#[test]
fn a_download_resumes_only_with_the_bytes_that_it_asked_for() {
    let size = content("config.json").unwrap().len();
    let resumed = |range: &str| {
        let (range, cache) = (range.to_owned(), tempfile::tempdir().unwrap());
        let hub = FakeHub::new(move |_, asked| {
            let mut answered = working_hub(asked);
            if asked.method == "GET" && asked.path.ends_with("/config.json") {
                match asked.range {
                    None => answered.cut = Some(10),
                    Some(_) => answered.headers.push(("content-range", range.clone())),
                }
            }
            answered
        });
        fetch("me/resnet", &cache, hub.client()).map(drop)
    };
    let last = size - 1;
    for range in [
        format!("bytes 10-{last}/{size}"),
        format!("Bytes 10-{last}/*"),
    ] {
        resumed(&range).unwrap();
    }
    for range in [
        format!("bytes 0-{last}/{size}"),
        format!("bytes 10-{size}/{}", size + 1),
        format!("bytes */{size}"),
        "10".to_owned(),
    ] {
        let error = resumed(&range).unwrap_err().to_string();
        let wanted = format!("config.json can't be fetched: the hub sends `{range}` of it");
        assert!(error.contains(&wanted), "{error}");
    }
}

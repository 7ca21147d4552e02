//! Calls that go through a proxy.

use finetuner::Finetuner;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    mock::{TOKEN, accept_all, short_pauses},
    process::in_child_process,
};

/// Address of a backend that only a proxy can reach.
const BACKEND: &str = "http://backend.example:8642";

fn through(proxy: &str) -> finetuner::Builder {
    Finetuner::builder()
        .registry(BACKEND)
        .token(TOKEN)
        .proxy(proxy)
        .allow_plain_http(true)
        .retry(short_pauses())
}

/// Runs a SOCKS5 proxy for one client, which accepts `user` and `pass` and connects
/// every requested name to `target`. Returns the requested name.
async fn socks(listener: TcpListener, target: String) -> String {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], 5, "this is SOCKS5, not HTTP");
    let mut methods = vec![0; head[1].into()];
    client.read_exact(&mut methods).await.unwrap();
    assert!(methods.contains(&2));
    client.write_all(&[5, 2]).await.unwrap();
    let mut login = [0; 11];
    client.read_exact(&mut login).await.unwrap();
    assert_eq!(&login, b"\x01\x04user\x04pass");
    client.write_all(&[1, 0]).await.unwrap();
    let mut ask = [0; 5];
    client.read_exact(&mut ask).await.unwrap();
    assert_eq!(ask[..4], [5, 1, 0, 3], "a name that the proxy resolves");
    let mut name = vec![0; usize::from(ask[4]) + 2];
    client.read_exact(&mut name).await.unwrap();
    name.truncate(ask[4].into());
    client
        .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut server = TcpStream::connect(target).await.unwrap();
    // The client closes the connection at the end.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    String::from_utf8(name).unwrap()
}

#[tokio::test]
async fn a_socks_proxy_is_used_with_socks5() {
    let (server, _) = accept_all().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(socks(listener, server.address().to_string()));
    let finetuner = through(&format!("socks5h://user:pass@{address}"))
        .login()
        .await
        .unwrap();
    assert_eq!(finetuner.user().unwrap().name, "ada");
    drop(finetuner);
    assert_eq!(proxy.await.unwrap(), "backend.example");
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used_except_for_loopback() {
    let test = "proxies::a_proxy_of_the_environment_is_used_except_for_loopback";
    let proxy = "http://user:geheim@127.0.0.1:1";
    let variables = [
        ("HTTP_PROXY", " "),
        ("http_proxy", proxy),
        ("HTTPS_PROXY", "ftp://user:geheim@x"),
    ];
    if in_child_process(test, &variables) {
        return;
    }
    accept_all().await;
    let far = || Finetuner::builder().token(TOKEN).retry(short_pauses());
    let plain = far().registry(BACKEND).allow_plain_http(true);
    let error = plain.login().await.unwrap_err();
    assert!(error.is_connect(), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("http://127.0.0.1:1 (http_proxy)"), "{text}");
    assert!(!text.contains("geheim"), "{text}");
    let error = far().registry("https://backend.example").connect().await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("HTTPS_PROXY") && error.contains("ftp"),
        "{error}"
    );
    assert!(!error.contains("geheim"), "{error}");
}

#[tokio::test]
async fn an_unknown_proxy_scheme_is_refused_by_name() {
    let error = through("ftp://user:geheim@127.0.0.1:1")
        .connect()
        .await
        .unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("ftp") && text.contains("socks5h"), "{text}");
    assert!(!text.contains("geheim"), "{text}");
}

#[tokio::test]
async fn an_unreachable_proxy_is_named_without_its_password() {
    for scheme in ["http", "socks5h"] {
        let proxy = format!("{scheme}://user:geheim@127.0.0.1:1");
        let error = through(&proxy).login().await.unwrap_err();
        assert!(error.is_connect(), "{error}");
        let text = format!("{error} {error:?}");
        let named = format!("the proxy {scheme}://127.0.0.1:1 (proxy)");
        assert!(text.contains(&named) && text.contains("NO_PROXY"), "{text}");
        assert!(
            !text.contains("geheim") && !text.contains("finetuner-server"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_proxy_that_requires_a_password_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let length = client.read(&mut head).await.unwrap();
        assert!(head[..length].starts_with(b"GET http://backend.example:8642/"));
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        client.write_all(answer.as_bytes()).await.unwrap();
    });
    let finetuner = through(&format!("http://{address}"))
        .connect()
        .await
        .unwrap();
    let error = finetuner.get_experiment("e").await.unwrap_err();
    assert_eq!(error.status(), Some(407));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    proxy.await.unwrap();
}

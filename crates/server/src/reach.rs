//! The server's address for workers on other machines, and the certificate
//! authority that they trust.

use std::net::IpAddr;

use url::{Host, Url};

use crate::{error::StartError, requests::Authorities, settings::Workers};

/// Checks and returns the configured address for workers on other machines.
pub(crate) fn for_other_machines(workers: &Workers, engine: &str) -> Result<String, StartError> {
    let bad = |reason: String| StartError::Setting {
        setting: "workers.url",
        reason,
    };
    let remedy = "give the address at which they reach this server, such as \
                  https://finetuner.example.org:8642";
    let Some(address) = &workers.url else {
        return Err(bad(format!(
            "it is missing, and workers on {engine} run on other machines: {remedy}"
        )));
    };
    let url = Url::parse(address).map_err(|e| bad(format!("`{address}`: {e}: {remedy}")))?;
    let Some(host) = url.host() else {
        return Err(bad(format!("`{address}` has no host: {remedy}")));
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("`{address}` is not http or https: {remedy}")));
    }
    // Everyone who can see the engine's pages can see the address.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "it contains a user name or a password: remove them".to_owned()
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad(format!(
            "`{address}` has a query or a fragment: {remedy}"
        )));
    }
    if is_of_this_machine(&host) {
        return Err(bad(format!(
            "`{address}` refers to the machine that uses it, and workers on {engine} run on other \
             machines: {remedy}"
        )));
    }
    Ok(address.trim_end_matches('/').to_owned())
}

fn is_of_this_machine(host: &Host<&str>) -> bool {
    let own = |address: IpAddr| {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified()
    };
    match host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => own((*address).into()),
        Host::Ipv6(address) => own((*address).into()),
    }
}

/// Reads the certificate authority that workers trust, in PEM form.
pub(crate) fn authority(workers: &Workers) -> Result<Option<String>, StartError> {
    let Some(path) = &workers.ca else {
        return Ok(None);
    };
    let bad = |reason: &dyn std::fmt::Display| StartError::Setting {
        setting: "workers.ca",
        reason: format!("{}: {reason}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|e| bad(&e))?;
    Authorities::in_pem(text.as_bytes()).map_err(|e| bad(&e))?;
    // The file is sent to every worker.
    match text.contains("PRIVATE KEY") {
        true => Err(bad(
            &"it contains a private key: name a file that contains only certificates",
        )),
        false => Ok(Some(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_other_machines_can_not_reach_is_refused_with_the_remedy() {
        let check = |url: Option<&str>| {
            let workers = Workers {
                url: url.map(str::to_owned),
                ..Workers::default()
            };
            for_other_machines(&workers, "Slurm").map_err(|e| e.to_string())
        };
        let good = check(Some("https://head-node:8642/")).unwrap();
        assert_eq!(good, "https://head-node:8642");
        check(Some("http://10.0.0.7:8642")).unwrap();
        for bad in [
            None,
            Some("http://127.0.0.1:8642"),
            Some("http://localhost:8642"),
            Some("http://LOCALHOST.:8642"),
            Some("http://[::1]:1"),
            Some("http://[::ffff:127.0.0.1]:1"),
            Some("http://0.0.0.0:8642"),
            Some("ftp://head-node"),
            Some("head-node:8642"),
            Some("https://head-node/?a=b"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.starts_with("`workers.url`: "), "{error}");
            assert!(error.contains("such as https://"), "{bad:?}: {error}");
        }
        let error = check(Some("https://ada:secret@head-node")).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn a_certificate_authority_file_must_not_contain_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["head-node".to_owned()]).unwrap();
        let read = |text: &str| {
            let path = folder.path().join("ca.pem");
            std::fs::write(&path, text).unwrap();
            let workers = Workers {
                ca: Some(path),
                ..Workers::default()
            };
            authority(&workers).map_err(|e| e.to_string())
        };
        let pem = made.cert.pem();
        assert_eq!(read(&pem).unwrap(), Some(pem.clone()));
        assert!(read("").unwrap_err().contains("no certificate"));
        let both = pem + &made.signing_key.serialize_pem();
        assert!(read(&both).unwrap_err().contains("private key"));
    }
}

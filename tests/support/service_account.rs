//! A service account of Google.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A key file as Google writes it, and the public half.
pub(crate) fn key_file(token_uri: &str) -> (String, Vec<u8>) {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let encoded = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let file = serde_json::json!({
        "type": "service_account", "project_id": "project", "private_key_id": "planted-key-id", "private_key": pem,
        "client_email": "broker@project.iam.example", "client_id": "1", "token_uri": token_uri,
    });
    (serde_json::to_string_pretty(&file).unwrap(), key.public_key().as_ref().to_vec())
}

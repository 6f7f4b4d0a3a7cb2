//! What answers of logins say, and files of credentials.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use zeroize::Zeroizing;

use super::answer::{Answer, AwsKeys, aws, aws_file, key_file};
use crate::fuzz::{self, Start};

/// What can be sent stays one line of printable ASCII.
fn is_sent(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn check(keys: &AwsKeys) {
    assert!(is_sent(keys.id.as_bytes()) && !keys.id.contains(['/', ',', ' ', '=']), "{}", keys.id);
    assert!(is_sent(keys.secret.bytes()));
    assert!(keys.session.as_ref().is_none_or(|session| is_sent(session.bytes())));
}

/// Input: an answer, or a file.
#[test]
fn session() {
    let words = &[
        "{\"auth\":{\"client_token\":\"t\",\"lease_duration\":",
        "}}",
        "\"access_token\":\"",
        "\"expires_in\":",
        "\"Expiration\":\"2026-01-01T00:00:00Z\"",
        "\"Code\":\"Success\"",
        "\"AccessKeyId\":\"AKIA\"",
        "\"SecretAccessKey\":\"s\"",
        "\"Token\":\"t\"",
        "AWS_ACCESS_KEY_ID=",
        "AWS_SECRET_ACCESS_KEY=",
        "aws_access_key_id = ",
        "aws_secret_access_key = ",
        "[default]\n",
        "[profile x]\n",
        "export ",
        "\"private_key\":\"-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----\\n\"",
        "\"client_email\":\"a@b\"",
        "\"token_uri\":\"https://a/b\"",
        "1e400",
        "-1",
        "\\n",
        "\\u0000",
    ];
    fuzz::run("session", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let files = [None, Some("default"), Some("x")].map(|profile| aws_file(input, profile));
        files.iter().filter_map(|file| file.as_ref().ok()).for_each(check);
        let of_file = files
            .each_ref()
            .map(|file| file.as_ref().map(|keys| keys.session.is_some()).map_err(|why| format!("{why:?}")));
        let key = key_file(input).map(|file| file.key.len().min(3)).map_err(|why| format!("{why:?}"));
        let Ok(answer) = Answer::parse(Zeroizing::new(input.to_vec())) else {
            assert!(serde_json::from_slice::<Value>(input).is_err(), "legal JSON is refused: {text}");
            return vec![format!("{of_file:?} {key:?}")];
        };
        let full = serde_json::from_slice::<Value>(input).ok();
        let pointers: [&[&str]; 3] = [&["auth", "client_token"], &["access_token"], &["expires_in"]];
        let mut saw = vec![format!("{of_file:?} {key:?}")];
        for pointer in pointers {
            let token = answer.token(pointer, "x");
            if let Ok(token) = &token {
                assert!(is_sent(token.bytes()));
                // A name twice is the last one in both.
                if let Some(Value::String(there)) =
                    full.as_ref().and_then(|full| full.pointer(&format!("/{}", pointer.join("/"))))
                {
                    assert_eq!(there.as_bytes(), token.bytes(), "{text}");
                }
            }
            let seconds = answer.seconds(pointer);
            assert_ne!(seconds, Some(0), "zero is nothing");
            saw.push(format!("{:?} {:?}", token.map(|_| ()), seconds.map(|seconds| seconds.ilog10())));
        }
        let given = aws(&answer, UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        if let Ok((keys, life)) = &given {
            check(keys);
            assert_ne!(*life, Some(0));
        }
        saw.push(format!("{:?}", given.map(|(_, life)| life.map(u64::ilog10))));
        saw
    });
}

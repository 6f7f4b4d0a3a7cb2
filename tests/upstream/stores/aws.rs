//! AWS Secrets Manager and the Parameter Store: signatures are computed anew, errors are told by `__type`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Asked, not_so, refuse};
use crate::answer::{Answer, whole};
use crate::sigv4;

const ID: &str = "AKIAIOSFODNN7EXAMPLE";

/// What is asked, if it is signed and of the version of the protocol.
fn signed(asked: &Asked, service: &str, target: &str) -> Result<Value, Answer> {
    if asked.method != "POST" || !asked.path.is_empty() || !asked.query.is_empty() {
        return Err(not_so("no call"));
    }
    if asked.header("content-type") != "application/x-amz-json-1.1" || asked.header("x-amz-target") != target {
        return Err(error("UnknownOperationException"));
    }
    // What an instance or a container was given is a session; a key of a user has none.
    let id = if asked.header("x-amz-security-token").is_empty() { ID } else { "given" };
    let expected = HashMap::from([("id", id)]);
    let region = ("eu-west-1", service);
    sigv4::check(&asked.state, &expected, region, &asked.head, asked.body.as_bytes()).map_err(|refused| *refused)?;
    serde_json::from_str(&asked.body).map_err(|_| error("SerializationException"))
}

fn error(kind: &str) -> Answer {
    let status = if kind.starts_with("Internal") { 500 } else { 400 };
    let body = json!({ "__type": kind, "Message": "said to a person", "message": "said to a person" });
    whole(status, "application/x-amz-json-1.1", body.to_string())
}

fn good(body: &Value) -> Answer {
    whole(200, "application/x-amz-json-1.1", body.to_string())
}

/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>
pub(super) fn secrets_manager(asked: &Asked) -> Answer {
    let sent = match signed(asked, "secretsmanager", "secretsmanager.GetSecretValue") {
        Ok(sent) => sent,
        Err(answer) => return answer,
    };
    let known = ["SecretId", "VersionId", "VersionStage"];
    if !sent.as_object().is_some_and(|sent| sent.keys().all(|name| known.contains(&name.as_str()))) {
        return error("ValidationException");
    }
    let text = match (
        sent["SecretId"].as_str().unwrap_or_default(),
        sent["VersionStage"].as_str(),
        sent["VersionId"].as_str(),
    ) {
        ("prod/plain", None | Some("AWSCURRENT"), None) => asked.value.clone(),
        ("prod/plain", Some("AWSPREVIOUS"), None) => "the one before".to_owned(),
        ("prod/plain", None, Some("v-1")) => "the first".to_owned(),
        ("prod/object" | "arn:aws:secretsmanager:eu-west-1:1:secret:prod/object-a1B2c3", None, None) => {
            json!({ "user": "app", "password": asked.value }).to_string()
        }
        ("prod/binary", ..) => {
            return good(&json!({ "Name": "prod/binary", "VersionId": "v", "SecretBinary": "//4=" }));
        }
        ("deleted", ..) => return error("InvalidRequestException"),
        ("denied", ..) => return error("AccessDeniedException"),
        ("undecipherable", ..) => return error("DecryptionFailure"),
        ("throttled", ..) => return error("ThrottlingException"),
        ("expired", ..) => return error("ExpiredTokenException"),
        ("internal", ..) => return error("InternalServiceError"),
        ("long-name-of-an-error", ..) => return error("com.amazonaws.secretsmanager#ResourceNotFoundException"),
        ("html", ..) => return whole(400, "text/html", "<html>Bad Request</html>"),
        _ => return error("ResourceNotFoundException"),
    };
    good(&json!({
        "ARN": "arn:aws:secretsmanager:eu-west-1:1:secret:x-a1B2c3", "Name": sent["SecretId"], "VersionId": "v-2", "SecretString": text,
        "VersionStages": ["AWSCURRENT"], "CreatedDate": 1_700_000_000.123,
    }))
}

/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html>
pub(super) fn ssm(asked: &Asked) -> Answer {
    let sent = match signed(asked, "ssm", "AmazonSSM.GetParameter") {
        Ok(sent) => sent,
        Err(answer) => return answer,
    };
    if sent["WithDecryption"] != true {
        return refuse(418, &json!("not decrypted"));
    }
    let text = match sent["Name"].as_str().unwrap_or_default() {
        "/prod/url" => asked.value.clone(),
        "/prod/url:2" => "the second".to_owned(),
        "/prod/object" => json!({ "user": "app", "password": asked.value }).to_string(),
        "/prod/url:9" => return error("ParameterVersionNotFound"),
        "/prod/denied" => return error("AccessDeniedException"),
        "/prod/key" => return error("InvalidKeyId"),
        "/prod/throttled" => return error("ThrottlingException"),
        "/prod/internal" => return error("InternalServerError"),
        _ => return error("ParameterNotFound"),
    };
    good(&json!({ "Parameter": {
        "ARN": "arn:aws:ssm:eu-west-1:1:parameter/prod/url", "DataType": "text", "LastModifiedDate": 1_700_000_000.1,
        "Name": sent["Name"], "Type": "SecureString", "Value": text, "Version": 3,
    } }))
}

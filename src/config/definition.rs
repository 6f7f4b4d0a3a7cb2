//! The source definition: what the sealed cache binds a value to.
//!
//! One line of JSON with sorted names. A change of this text makes every sealed value unreadable, so what is
//! added later is left out where it has its default. Not in it: timeouts, TLS, proxy, the way the token is
//! shown, headers that carry no data, and the bytes of the token.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::nameko::EXCHANGE;
use super::{
    Auth, AwsCredentials, Coding, CommandDocument, FileDocument, Format, HttpDocument, Method, NamekoDocument,
    Projection, Step, TokenName, Url,
};

/// Sorted by its type: whether `serde_json::Map` keeps order depends on the features of the whole build.
type Fields<'n> = BTreeMap<&'n str, Value>;

fn text(fields: &Fields<'_>) -> String {
    // Strings as names and values always serialise.
    serde_json::to_string(fields).unwrap_or_default()
}

fn url_text(url: &Url) -> Value {
    json!(format!("{}{}", url.origin(), url.target))
}

/// Selected by name, by pointer or in steps: three fields of which at most one is there.
fn add_projection(fields: &mut Fields<'_>, projection: &Projection) {
    match projection {
        Projection::Whole | Projection::Returned => {}
        Projection::Fields(names) => drop(fields.insert("field", json!(names))),
        Projection::Pointer(tokens) => drop(fields.insert("pointer", json!(tokens))),
        Projection::Steps(steps) => drop(fields.insert("extract", steps.iter().map(step).collect())),
    }
}

fn step(step: &Step) -> Value {
    match step {
        Step::Pointer(tokens) => json!({ "pointer": tokens }),
        Step::Fields(names) => json!({ "field": names }),
        Step::Where { member, value } => json!({ "where": [member, value] }),
        Step::Decode(Coding::Base64) => json!({ "decode": "base64" }),
        Step::Decode(Coding::Json) => json!({ "decode": "json" }),
        Step::DecodeEach => json!({ "decode-each": "base64" }),
    }
}

fn format_name(format: Format) -> Value {
    json!(match format {
        Format::Json => "json",
        Format::Text => "text",
        Format::Toml => "toml",
        Format::Env => "env",
    })
}

pub(super) fn of_http(document: &HttpDocument, projection: &Projection) -> String {
    let mut fields = Fields::from([
        ("type", json!("http")),
        ("url", url_text(&document.url)),
        ("method", json!(if document.method == Method::Get { "GET" } else { "POST" })),
        ("format", format_name(document.format)),
    ]);
    if let Some(body) = &document.body {
        fields.insert("body", json!(body));
    }
    let selects = |name: &str| !name.starts_with("accept") && name != "user-agent";
    let headers: Vec<_> = document.headers.iter().filter(|(name, _)| selects(name)).collect();
    if !headers.is_empty() {
        fields.insert("headers", json!(headers));
    }
    if let Some(TokenName(token)) = document.auth.token() {
        fields.insert("token", json!(token));
    }
    add_account(&mut fields, &document.auth);
    // Another account may see other data.
    if let Auth::Hawk { id: account, .. } | Auth::Basic { user: account, .. } = &document.auth {
        fields.insert("account", json!(account));
    }
    add_projection(&mut fields, projection);
    text(&fields)
}

/// Who asks, where that is more than the name of one token: another account, role or login may see other data.
fn add_account(fields: &mut Fields, auth: &Auth) {
    let account = match auth {
        Auth::None | Auth::Bearer { .. } | Auth::Basic { .. } | Auth::Header { .. } | Auth::Hawk { .. } => return,
        Auth::AwsSigV4(aws) => match &aws.credentials {
            AwsCredentials::Static { access_key_id, secret_access_key, session_token } => {
                json!(["static", access_key_id, secret_access_key.0, session_token.as_ref().map(|token| &token.0)])
            }
            AwsCredentials::File { token, profile } => json!(["file", token.0, profile]),
            AwsCredentials::Container { url, token } => {
                json!(["container", url_text(url), token.as_ref().map(|token| &token.0)])
            }
            AwsCredentials::Imds { url, role } => json!(["imds", url_text(url), role]),
        },
        Auth::OAuth2(client) => {
            json!(["oauth2", url_text(&client.token_url), client.client_id, client.client_secret.0, client.scope])
        }
        Auth::Google(account) => json!(["google", account.key.0, account.scope]),
        Auth::Login(login) => {
            let body = login.body.as_ref().map(|(body, _)| body.named(&login.secrets));
            let headers: Vec<_> =
                login.headers.iter().map(|(name, value)| (name, value.named(&login.secrets))).collect();
            let secrets: Vec<_> = login.secrets.iter().map(|(name, token)| (name, &token.0)).collect();
            json!(["login", url_text(&login.url), headers, body, secrets])
        }
    };
    fields.insert("account", account);
}

/// A shipped preset, what a key gives for its parameters, and what is selected by them.
pub(super) fn of_preset<'g>(
    name: &str,
    given: impl Iterator<Item = (&'g str, Vec<String>)>,
    projection: &Projection,
) -> String {
    let mut fields = Fields::from([("type", json!(name))]);
    for (name, mut values) in given {
        let value = if values.len() == 1 { json!(values.remove(0)) } else { json!(values) };
        fields.insert(name, value);
    }
    add_projection(&mut fields, projection);
    text(&fields)
}

pub(super) fn of_file(document: &FileDocument, projection: &Projection) -> String {
    let path = document.path.to_string_lossy();
    let mut fields =
        Fields::from([("type", json!("file")), ("path", json!(path)), ("format", format_name(document.format))]);
    add_projection(&mut fields, projection);
    text(&fields)
}

pub(super) fn of_nameko(call: &NamekoDocument) -> String {
    let mut fields = Fields::from([
        ("type", json!("nameko")),
        ("broker", json!(call.broker.origin())),
        ("account", json!(call.user)),
        ("token", json!(call.token.0)),
        ("method", json!(call.routing_key)),
        ("arguments", json!(call.arguments)),
    ]);
    if call.exchange != EXCHANGE {
        fields.insert("exchange", json!(call.exchange));
    }
    text(&fields)
}

/// With the environment, which often says of which account and server: another one may see other data.
pub(super) fn of_command(document: &CommandDocument, projection: &Projection) -> String {
    let command = &document.command;
    let mut run = vec![command.program.to_string_lossy().into_owned()];
    run.extend(command.arguments.iter().cloned());
    let mut fields = Fields::from([
        ("type", json!("command")),
        ("run", json!(run)),
        ("user", json!(command.user)),
        ("format", format_name(document.format)),
    ]);
    if !command.environment.is_empty() {
        fields.insert("environment", json!(command.environment));
    }
    if command.directory.as_os_str() != "/" {
        fields.insert("directory", json!(command.directory.to_string_lossy()));
    }
    if let Some(TokenName(token)) = &document.token {
        fields.insert("token", json!(token));
    }
    add_projection(&mut fields, projection);
    text(&fields)
}

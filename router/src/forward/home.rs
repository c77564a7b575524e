//! What one worker keeps and no other: sessions, uploaded files, stored responses.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::prompt::Scanned;

/// Stands for all files and batches: a list of them is to be whole.
const FILES: &[u8] = b"files";

/// What a request at `path` wants from the worker that keeps it.
pub(super) fn home<'a>(path: &str, scanned: &'a Scanned<'_>) -> Option<&'a [u8]> {
    match path {
        "/generate" | "/open_session" | "/close_session" => scanned.session.as_deref().map(str::as_bytes),
        path if is_below("/v1/files", path) || is_below("/v1/batches", path) => Some(FILES),
        _ => None,
    }
}

/// True when another worker may know what this one does not: responses are kept where they were made, and files where their home was
/// before a worker joined.
pub(super) fn may_be_elsewhere<T>(path: &str, response: &Response<T>) -> bool {
    const KEPT: [&str; 3] = ["/v1/responses", "/v1/files", "/v1/batches"];
    response.status() == StatusCode::NOT_FOUND && KEPT.iter().any(|folder| is_below(folder, path))
}

/// Gives the session that `body` opens a name, if the client leaves that to the server: by its name it is found again.
pub(super) fn named_session(body: Bytes) -> Bytes {
    match serde_json::from_slice::<Map<String, Value>>(&body) {
        Ok(mut fields) if fields.get("session_id").is_none_or(Value::is_null) => {
            fields.insert("session_id".to_owned(), format!("{:032x}", fastrand::u128(..)).into());
            Value::Object(fields).to_string().into()
        }
        _ => body,
    }
}

fn is_below(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::scan;

    #[test]
    fn requests_of_a_session_share_its_home() {
        let of = |path, body: &str| home(path, &scan(body.as_bytes(), None)).map(<[u8]>::to_vec);
        for (path, body) in [
            ("/open_session", r#"{"capacity_of_str_len": 9, "session_id": "s"}"#),
            ("/close_session", r#"{"session_id": "\u0073"}"#),
            ("/generate", r#"{"text": "a", "session_params": {"rid": "1", "id": "\u0073"}}"#),
            ("/generate", r#"{"text": ["a", "b"], "session_params": [ {"id": "s"}, {"id": "t"}]}"#),
        ] {
            assert_eq!(of(path, body).unwrap(), b"s", "{path} {body}");
        }
        for body in
            ["{}", r#"{"session_params": null}"#, r#"{"session_params": {"id": 1}}"#, r#"{"session_params": []}"#]
        {
            assert_eq!(of("/generate", body), None, "{body}");
        }
        assert_eq!(of("/v1/completions", r#"{"session_id": "s"}"#), None);
    }

    #[test]
    fn files_and_batches_have_one_home() {
        for path in ["/v1/files", "/v1/files/file-1/content", "/v1/batches", "/v1/batches/batch_1/cancel"] {
            assert_eq!(home(path, &Scanned::default()), Some(FILES), "{path}");
        }
        assert_eq!(home("/v1/filesystem", &Scanned::default()), None);
    }

    #[test]
    fn only_a_session_without_a_name_gets_one() {
        let given = Bytes::from_static(br#"{"session_id": "mine", "capacity_of_str_len": 1}"#);
        assert_eq!(named_session(given.clone()), given);
        for body in [&br#"{"capacity_of_str_len": 7}"#[..], br#"{"capacity_of_str_len": 7, "session_id": null}"#] {
            let named: Value = serde_json::from_slice(&named_session(Bytes::from_static(body))).unwrap();
            assert_eq!(named["capacity_of_str_len"], 7);
            assert_eq!(named["session_id"].as_str().unwrap().len(), 32);
        }
        let broken = Bytes::from_static(b"{");
        assert_eq!(named_session(broken.clone()), broken);
    }
}

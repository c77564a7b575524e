//! The values that labels may have.

/// Paths that are told apart; the last two are for other paths under `/v1/`, and for everything else.
pub const ROUTES: [&str; 42] = [
    "/generate",
    "/encode",
    "/classify",
    "/rerank",
    "/score",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/classify",
    "/v1/score",
    "/v1/rerank",
    "/v1/responses",
    "/v1/models",
    "/v1/files",
    "/v1/batches",
    "/get_model_info",
    "/get_server_info",
    "/get_load",
    "/health",
    "/health_generate",
    "/liveness",
    "/readiness",
    "/flush_cache",
    "/workers",
    "/add_worker",
    "/remove_worker",
    "/list_workers",
    "/metrics",
    "/abort_request",
    "/function_call",
    "/separate_reasoning",
    "/open_session",
    "/close_session",
    "/update_weights_from_disk",
    "/update_weights",
    "/get_weights_by_name",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/start_profile",
    "/stop_profile",
    "/v1/other",
    "other",
];

/// How requests end: the class of the status, or nothing, because the client left before there was one.
pub const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];

/// The index in `ROUTES` of what a path belongs to: itself, or what it begins with up to a slash.
pub fn route_index(path: &str) -> usize {
    let (v1, other) = (ROUTES.len() - 2, ROUTES.len() - 1);
    let belongs = |route: &str| path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match ROUTES[..v1].iter().position(|route| belongs(route)) {
        Some(index) => index,
        None if path.starts_with("/v1/") => v1,
        None => other,
    }
}

/// The index in `STATUSES`; 0 is no status.
pub fn status_index(status: u16) -> usize {
    match status {
        100..600 => usize::from(status / 100) - 1,
        _ => STATUSES.len() - 1,
    }
}

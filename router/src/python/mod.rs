//! The Python module `router_py._core`: the options, a router that runs on threads of its own, and its policies by themselves.

mod policy;

use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PySystemExit, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::background::{BackgroundRouter, QUICK_GRACE};
use crate::config::{self, RouterConfig};

/// How long `wait` sleeps between two looks at Python's signals.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

#[pymodule(name = "_core")]
mod module {
    #[pymodule_export]
    use super::policy::PyPolicy;
    #[pymodule_export]
    use super::{Router, options, parse_args};
}

/// Parse and validate a command line; return the configuration as JSON. Raises SystemExit: 0 after
/// --help and --version (on stdout), 2 after an error (on stderr).
#[pyfunction]
fn parse_args(argv: Vec<String>, prog: &str) -> PyResult<String> {
    match RouterConfig::from_args(prog, &argv) {
        Ok(config) => Ok(serde_json::to_string(&config).expect("a configuration is plain data")),
        Err(error) => {
            // A closed stdout or stderr changes nothing about the exit code.
            let _ = error.print();
            Err(PySystemExit::new_err(error.exit_code()))
        }
    }
}

/// One dict an option, in the order of --help.
#[pyfunction]
fn options(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for option in config::options() {
        let dict = PyDict::new(py);
        dict.set_item("name", option.name)?;
        dict.set_item("help", option.help)?;
        dict.set_item("group", option.group)?;
        dict.set_item("default", option.default)?;
        dict.set_item("value_name", option.value_name)?;
        dict.set_item("choices", option.choices)?;
        dict.set_item("takes_value", option.takes_value)?;
        dict.set_item("multiple", option.multiple)?;
        list.append(dict)?;
    }
    Ok(list)
}

/// A router that serves on background threads between `start` and `stop`.
#[pyclass]
struct Router {
    config: RouterConfig,
    running: Option<BackgroundRouter>,
}

#[pymethods]
impl Router {
    #[new]
    fn new(config_json: &str) -> PyResult<Self> {
        let config = RouterConfig::from_json(config_json).map_err(PyValueError::new_err)?;
        Ok(Self { config, running: None })
    }

    /// Bind and serve; returns once the router listens. OSError if it cannot.
    fn start(&mut self, py: Python<'_>) -> PyResult<()> {
        if self.running.is_some() {
            return Err(PyRuntimeError::new_err("the router has been started already"));
        }
        let config = self.config.clone();
        let started = py.detach(|| BackgroundRouter::start(config));
        self.running = Some(started.map_err(|error| PyOSError::new_err(error.to_string()))?);
        Ok(())
    }

    /// Block, with the GIL released, until another thread calls `stop` or a signal handler raises.
    fn wait(slf: Py<Self>, py: Python<'_>) -> PyResult<()> {
        let stopped = slf.borrow(py).running()?.stopped();
        while !py.detach(|| stopped.wait(SIGNAL_CHECK)) {
            py.check_signals()?;
        }
        Ok(())
    }

    /// Stop accepting, give running answers up to `timeout_seconds` (None: --shutdown-grace-secs), then drop them. Does
    /// nothing when not running.
    #[pyo3(signature = (timeout_seconds = Some(QUICK_GRACE.as_secs_f64())))]
    fn stop(slf: Py<Self>, py: Python<'_>, timeout_seconds: Option<f64>) -> PyResult<()> {
        let timeout = timeout_seconds.map(|seconds| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|error| PyValueError::new_err(format!("timeout_seconds {seconds}: {error}")))
        });
        let timeout = timeout.transpose()?;
        let running = slf.borrow_mut(py).running.take();
        if let Some(running) = running {
            py.detach(|| {
                let timeout = timeout.unwrap_or(running.shutdown_grace());
                running.stop(timeout);
            });
        }
        Ok(())
    }

    /// `http://host:port` or `https://host:port`, with the port that was taken. RuntimeError before `start` and after `stop`.
    #[getter]
    fn url(&self) -> PyResult<String> {
        Ok(self.running()?.url())
    }

    #[getter]
    fn port(&self) -> PyResult<u16> {
        Ok(self.running()?.port())
    }
}

impl Router {
    fn running(&self) -> PyResult<&BackgroundRouter> {
        self.running.as_ref().ok_or_else(|| PyRuntimeError::new_err("the router is not running; call start() first"))
    }
}

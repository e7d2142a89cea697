//! Tells the crate where the web app is.
//!
//! The app is built by `make web`, with Node. So that `cargo build` works without it, a page that says so is embedded instead
//! when it is missing; it is made outside of the source tree, where nobody can take it for the app.

use std::path::{Path, PathBuf};
use std::{env, fs};

const PLACEHOLDER: &str = "<!doctype html>
<html lang=\"en\">
  <head><meta charset=\"utf-8\" /><title>Reelraft</title></head>
  <body>
    <h1>The web app was not built</h1>
    <p>This program was compiled without it. Run <code>make web</code> and build again. The API works: see <a href=\"/api/docs\">its pages</a>.</p>
  </body>
</html>
";

fn main() {
    let dist =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets it")).join("web/dist");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    let dist = if dist.join("index.html").is_file() {
        dist
    } else {
        println!(
            "cargo::warning=gateway/web/dist is missing: `make web` builds it; a placeholder is embedded"
        );
        placeholder()
    };
    println!("cargo::rustc-env=GATEWAY_WEB_DIST={}", dist.display());
}

fn placeholder() -> PathBuf {
    let folder = Path::new(&env::var_os("OUT_DIR").expect("Cargo sets it")).join("dist");
    fs::create_dir_all(&folder).expect("create a folder in OUT_DIR");
    fs::write(folder.join("index.html"), PLACEHOLDER).expect("write into OUT_DIR");
    folder
}

//! Compiles proto/ without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["common", "runs", "workers", "chunks", "paths", "admin"]
        .map(|name| root.join(format!("fleet/v1/{name}.proto")));
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

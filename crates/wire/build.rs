//! Compiles proto/ without a system protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["common", "runs", "workers", "chunks", "paths", "peer", "cache", "admin"]
        .map(|name| root.join(format!("fleet/v1/{name}.proto")));
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    let kept = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(kept, descriptors.encode_to_vec())?;
    // A message's name leads to its description.
    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::StrictCodec")
        .compile_fds_with_config(descriptors, names)?;
    Ok(())
}

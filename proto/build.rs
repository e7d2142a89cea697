//! Generates the code of the services from `proto/*.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        // Blocks are handed on without a copy: `bytes` fields become `bytes::Bytes`.
        .bytes(".")
        // How a connection is made is a matter of `node`: without tonic's transport.
        .build_transport(false)
        // One file with the packages as nested modules, so that they can refer to each other.
        .include_file("reelraft.rs")
        .compile_protos(
            &[
                "proto/admin.proto",
                "proto/blocks.proto",
                "proto/cluster.proto",
                "proto/join.proto",
                "proto/operations.proto",
                "proto/raft.proto",
                "proto/repair.proto",
            ],
            &["proto"],
        )?;
    Ok(())
}

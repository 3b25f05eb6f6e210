# One image with one binary and the programs it runs: mkfs, fsck and growing of the file systems that volumes carry.
#
#   docker build -t windlass .
#
# A node needs --privileged, /dev, and its pool and its root mounted with shared propagation.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY csi-proto csi-proto
# A member of the workspace, not of the product; cargo wants every member to be there.
COPY bench bench
COPY src src
# Only declared, never built here; cargo wants the files of declared tests and benchmarks to exist.
COPY tests tests
COPY benches benches
RUN cargo build --release --locked --bin windlass \
    && strip --strip-debug target/release/windlass

# The same Debian release as above, so that the binary finds the C library it was linked to.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends btrfs-progs ca-certificates e2fsprogs mount util-linux xfsprogs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/windlass /usr/local/bin/windlass
COPY LICENSE /usr/share/doc/windlass/LICENSE
ENTRYPOINT ["/usr/local/bin/windlass"]

# One image with one binary and the programs that a node runs: making, checking and growing of the file systems that volumes carry, and
# checking and repairing of thin pools' metadata. The binary needs no shell and no other program.
#
#   docker build -t windlass .        or: make image, which needs neither a container engine nor a registry
#
# A node needs --privileged, /dev, and its pool and its root mounted with shared propagation. It runs as root; sidecars and whatever else a
# chart starts from this image name a user of their own.
#
# To make the same image around a binary that is built already, replace the stage `build` by a directory that has what is copied from it:
# buildah build --build-context build=DIRECTORY (deploy/image/build.sh --inject).

ARG DEBIAN=bookworm

# The same release of Debian for both stages, so that the binary finds the C library it was linked to.
FROM docker.io/library/debian:${DEBIAN}-slim AS runtime
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        btrfs-progs ca-certificates e2fsprogs thin-provisioning-tools xfsprogs \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && dpkg-query --show --showformat '${Package}\t${Version}\t${Architecture}\t${source:Package}\n' > /usr/share/windlass-packages

FROM docker.io/library/rust:1.95-${DEBIAN} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY csi-proto csi-proto
# A member of the workspace, not of the product; cargo wants every member to be there.
COPY bench bench
COPY src src
# Only declared, never built here; cargo wants the files of declared benchmarks to exist.
COPY benches benches
RUN cargo build --release --locked --bin windlass
COPY deploy/image deploy/image
COPY LICENSE ./
COPY --from=runtime /usr/share/windlass-packages /packages
RUN deploy/image/assemble.sh target/release/windlass /packages /image

FROM runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Windlass" \
      org.opencontainers.image.description="CSI driver for node-local block storage whose snapshots leave the cluster by themselves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The binary, its licence, and the list of all that is in here (CycloneDX): /usr/share/doc/windlass/sbom.cdx.json.
COPY --from=build /image /
ENTRYPOINT ["/usr/bin/windlass"]

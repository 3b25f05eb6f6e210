#!/usr/bin/env python3
"""Makes an image archive (OCI image layout, in a tar) out of files, with nothing but this and without a registry.

    oci-image.py NAME ARCHIVE [--base FILE.tar] [--directory PATH[:MODE]]... [--link TARGET:PATH]... [--entrypoint JSON] [--command JSON]
                 [--user USER] [--label KEY=VALUE]... [SOURCE:PATH[:MODE]]...

A layer of the named files comes after the one of --base, the tar of a root file system. The same files give the same bytes: times are zero
and owners are root. Prints the digest by which a container runtime knows the image."""

import argparse
import hashlib
import io
import json
import os
import tarfile

MEDIA = "application/vnd.oci.image."


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("archive")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--base")
    parser.add_argument("--directory", action="append", default=[])
    parser.add_argument("--link", action="append", default=[])
    parser.add_argument("--entrypoint", type=json.loads)
    parser.add_argument("--command", type=json.loads)
    parser.add_argument("--user")
    parser.add_argument("--label", action="append", default=[])
    return parser.parse_args()


class Layer:
    """A tar of files, each directory above them named once."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w")
        self.seen = set()

    def directory(self, path, mode=0o755):
        path = path.strip("/")
        if not path or path in self.seen:
            return
        self.directory(os.path.dirname(path))
        self.seen.add(path)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(entry)

    def file(self, source, path, mode):
        self.directory(os.path.dirname(path))
        entry = tarfile.TarInfo(path.strip("/"))
        entry.mode, entry.size = mode, os.path.getsize(source)
        with open(source, "rb") as content:
            self.tar.addfile(entry, content)

    def link(self, target, path):
        self.directory(os.path.dirname(path))
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(entry)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def descriptor(kind, data, **more):
    return {"mediaType": MEDIA + kind, "digest": digest(data), "size": len(data), **more}


def layers(wanted):
    made = []
    if wanted.base:
        with open(wanted.base, "rb") as base:
            made.append(base.read())
    layer = Layer()
    for directory in wanted.directory:
        path, _, mode = directory.partition(":")
        layer.directory(path, int(mode or "755", 8))
    for file in wanted.files:
        source, path, *mode = file.split(":")
        layer.file(source, path, int(mode[0], 8) if mode else 0o755)
    for link in wanted.link:
        layer.link(*link.split(":"))
    made.append(layer.bytes())
    return made


def main():
    wanted = arguments()
    content = layers(wanted)
    settings = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"}
    labels = dict(label.split("=", 1) for label in wanted.label)
    for key, value in {"Entrypoint": wanted.entrypoint, "Cmd": wanted.command, "User": wanted.user, "Labels": labels}.items():
        if value:
            settings[key] = value
    config = encode({
        "architecture": "amd64",
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in content]},
    })
    manifest = encode({
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar", layer) for layer in content],
        **({"annotations": labels} if labels else {}),
    })
    index = encode({
        "schemaVersion": 2,
        "mediaType": MEDIA + "index.v1+json",
        "manifests": [descriptor(
            "manifest.v1+json", manifest,
            platform={"architecture": "amd64", "os": "linux"},
            annotations={"io.containerd.image.name": wanted.name, "org.opencontainers.image.ref.name": wanted.name.rsplit(":", 1)[1]},
        )],
    })
    with tarfile.open(wanted.archive, "w") as archive:
        def put(name, data):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o644, len(data)
            archive.addfile(entry, io.BytesIO(data))

        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", index)
        for data in (config, manifest, *content):
            put("blobs/sha256/" + digest(data).removeprefix("sha256:"), data)
    print(digest(manifest))


main()

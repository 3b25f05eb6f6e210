#!/usr/bin/env python3
"""Prints the bill of materials of the image, in CycloneDX 1.6: the crates in the binary and the Debian packages beside it.

    cargo tree ... --format '{p}|{l}' | sbom.py CARGO_LOCK PACKAGES OS_RELEASE

PACKAGES has lines of name, version, architecture and source package, with tabs between. Only what is given is read, and there is no
time in it and nothing random: the same parts give the same bytes."""

import json
import re
import sys
import tomllib
import urllib.parse
import uuid


def fail(text):
    sys.exit(f"sbom.py: {text}")


def package_url(kind, name, version, **qualifiers):
    quoted = "/".join(urllib.parse.quote(part, safe="") for part in name.split("/"))
    query = urllib.parse.urlencode(sorted(qualifiers.items()))
    return f"pkg:{kind}/{quoted}@{urllib.parse.quote(version, safe='')}" + (f"?{query}" if query else "")


def crates(tree, lock):
    """The product itself, and one component for each crate that the tree names."""
    with open(lock, "rb") as file:
        locked = {(package["name"], package["version"]): package for package in tomllib.load(file)["package"]}
    product, parts = None, {}
    for line in tree:
        line = line.strip()
        if not line:
            continue
        package, _, licence = line.removesuffix("(*)").rstrip().partition("|")
        match = re.match(r"(\S+) v(\S+)", package)
        if not match:
            fail(f"cargo tree says what is not understood: {line}")
        name, version = match.groups()
        entry = locked.get((name, version)) or fail(f"{name} {version} is not in {lock}")
        url = package_url("cargo", name, version)
        part = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
        if licence:
            part["licenses"] = [{"expression": licence.replace("/", " OR ")}]
        if "checksum" in entry:
            part["hashes"] = [{"alg": "SHA-256", "content": entry["checksum"]}]
        if product is None:
            product = {**part, "type": "application"}
        elif url != product["purl"]:
            parts[url] = part
    if product is None or not parts:
        fail("cargo tree named no crates")
    return product, list(parts.values())


def debian(packages, release):
    with open(release) as file:
        values = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    distribution = values["ID"].strip('"') + "-" + values["VERSION_ID"].strip('"')
    parts = []
    with open(packages) as file:
        for line in file:
            name, version, architecture, source = line.rstrip("\n").split("\t")
            url = package_url("deb", f"debian/{name}", version, arch=architecture, distro=distribution)
            parts.append({
                "type": "library", "bom-ref": url, "name": name, "version": version, "purl": url,
                "properties": [{"name": "debian:source", "value": source}],
            })
    if not parts:
        fail(f"{packages} names no packages")
    return parts


def main():
    lock, packages, release = sys.argv[1:]
    product, parts = crates(sys.stdin, lock)
    parts += debian(packages, release)
    parts.sort(key=lambda part: part["purl"])
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": parts,
    }
    bill["serialNumber"] = "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True)))
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    print()


main()

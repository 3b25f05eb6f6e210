# To be sourced: copies files of this machine into a directory that is to be the root of another.

# closure FILE...: each file, the links that lead to it and, of a program, the libraries that it loads: one path a line. The
# directory of each path is its real one, so that /bin/sh is /usr/bin/sh where /bin is a link.
closure() {
    local file target
    for file in "$@"; do
        file=$(realpath "$(dirname "$file")")/$(basename "$file")
        printf '%s\n' "$file"
        if [ -L "$file" ]; then
            target=$(readlink "$file")
            case $target in
                /*) closure "$target" ;;
                *) closure "$(dirname "$file")/$target" ;;
            esac
        elif [ -d "$file" ]; then
            find "$file" -mindepth 1
        elif [ -x "$file" ]; then
            # Scripts and static programs load nothing; ldd says so by failing.
            for target in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do closure "$target"; done
        fi
    done
}

# copy_into ROOT: copies the paths on standard input to the same places beneath ROOT.
copy_into() {
    sort -u | sed 's,^/,,' | tar --create --directory / --no-recursion --files-from - | tar --extract --directory "$1"
}

# make_image DIRECTORY IMAGE: an ext4 file system with the directory's content. Needs neither root nor a loop device.
make_image() {
    local kib
    kib=$(du --summarize --block-size 1024 "$1" | cut -f1)
    rm -f "$2"
    # An eighth and 16 MiB more than the files: for inodes and directories.
    truncate -s "$((kib * 9 / 8 + 16384))K" "$2"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$1" "$2"
}

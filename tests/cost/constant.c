/* A file system of one file, `token`, with constant content: what a FUSE file system costs at least
 * in C, for the benchmark to compare with. Single-threaded, libfuse3's low-level interface.
 *
 * usage: constant CONTENT MOUNTPOINT cached|direct
 *
 *   cached  the page cache serves the content: OPEN, RELEASE
 *   direct  each read is asked for: OPEN, READ, RELEASE
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOKEN = FUSE_ROOT_ID + 1 };

static const double for_long = 3600;
static const char *content;
static int direct;

static int attributes(fuse_ino_t inode, struct stat *stat) {
    memset(stat, 0, sizeof *stat);
    stat->st_ino = inode;
    stat->st_uid = getuid();
    stat->st_gid = getgid();
    if (inode == FUSE_ROOT_ID) {
        stat->st_mode = S_IFDIR | 0711;
        stat->st_nlink = 2;
    } else if (inode == TOKEN) {
        stat->st_mode = S_IFREG | 0400;
        stat->st_nlink = 1;
        stat->st_size = (off_t)strlen(content);
    } else {
        return -1;
    }
    return 0;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param entry = {
        .ino = TOKEN, .attr_timeout = for_long, .entry_timeout = for_long};
    if (parent != FUSE_ROOT_ID || strcmp(name, "token") != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    attributes(TOKEN, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    struct stat stat;
    (void)file;
    if (attributes(inode, &stat) != 0)
        fuse_reply_err(request, ENOENT);
    else
        fuse_reply_attr(request, &stat, for_long);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    if (inode != TOKEN) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    file->keep_cache = !direct;
    file->direct_io = direct;
    file->noflush = 1;
    fuse_reply_open(request, file);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                    struct fuse_file_info *file) {
    size_t length = strlen(content);
    size_t start = (size_t)offset < length ? (size_t)offset : length;
    (void)inode;
    (void)file;
    fuse_reply_buf(request, content + start, size < length - start ? size : length - start);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read};

int main(int count, char **words) {
    char *options[] = {words[0], "-o", "default_permissions"};
    struct fuse_args args = FUSE_ARGS_INIT(3, options);
    struct fuse_session *session;
    int failed = 1;
    if (count != 4 || (strcmp(words[3], "cached") != 0 && strcmp(words[3], "direct") != 0)) {
        fprintf(stderr, "usage: %s CONTENT MOUNTPOINT cached|direct\n", words[0]);
        return 2;
    }
    content = words[1];
    direct = strcmp(words[3], "direct") == 0;
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session != NULL && fuse_set_signal_handlers(session) == 0) {
        if (fuse_session_mount(session, words[2]) == 0) {
            failed = fuse_session_loop(session) != 0;
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    if (session != NULL)
        fuse_session_destroy(session);
    return failed;
}

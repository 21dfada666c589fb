#include "judge/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#else
#define MACHINE EM_AARCH64
#endif

typedef struct image {
  const unsigned char *bytes;
  uint64_t size;
  Elf64_Ehdr header;
  const char *path;
} image;

typedef struct dynamic {
  uint64_t symbols, strings, string_size, hash, gnu_hash;
  uint64_t rela, rela_size, plt, plt_size;
} dynamic;

#define BAD(im, ...) fk_fail_in(fk_fail(FK_ERROR_FORMAT, __VA_ARGS__), "%s", (im)->path)

static bool get(const image *im, uint64_t offset, void *to, uint64_t n) {
  if (offset > im->size || n > im->size - offset) return false;
  memcpy(to, im->bytes + offset, n);
  return true;
}

static bool program_header(const image *im, int i, Elf64_Phdr *ph) {
  return get(im, im->header.e_phoff + (uint64_t)i * sizeof *ph, ph, sizeof *ph);
}

/* Where an address lies in the file. */
static bool locate(const image *im, uint64_t address, uint64_t *offset) {
  Elf64_Phdr ph;
  for (int i = 0; i < im->header.e_phnum; i++) {
    if (!program_header(im, i, &ph) || ph.p_type != PT_LOAD) continue;
    if (address < ph.p_vaddr || address - ph.p_vaddr >= ph.p_filesz) continue;
    *offset = ph.p_offset + (address - ph.p_vaddr);
    return *offset < im->size;
  }
  return false;
}

static bool get_at(const image *im, uint64_t address, void *to, uint64_t n) {
  uint64_t offset;
  return locate(im, address, &offset) && get(im, offset, to, n);
}

static bool find_header(const image *im, uint32_t type, Elf64_Phdr *ph) {
  for (int i = 0; i < im->header.e_phnum; i++)
    if (program_header(im, i, ph) && ph->p_type == type) return true;
  return false;
}

/* A string of the dynamic string table, or NULL. */
static const char *string_at(const image *im, const dynamic *d, uint64_t index) {
  uint64_t offset;
  if (index >= d->string_size || !locate(im, d->strings, &offset)) return NULL;
  if (offset > im->size || d->string_size > im->size - offset) return NULL;
  const char *text = (const char *)im->bytes + offset + index;
  return memchr(text, 0, d->string_size - index) ? text : NULL;
}

/* ---- How many symbols there are: the format does not say, so ask all who refer to them ------------------- */

static uint64_t symbols_in_gnu_hash(const image *im, const dynamic *d) {
  uint32_t h[4], most = 0, chain;
  if (!d->gnu_hash || !get_at(im, d->gnu_hash, h, sizeof h)) return 0;
  uint64_t buckets = d->gnu_hash + sizeof h + 8ull * h[2], chains = buckets + 4ull * h[0];
  for (uint64_t i = 0; i < h[0] && i < im->size / 4; i++) {
    uint32_t bucket;
    if (!get_at(im, buckets + 4 * i, &bucket, 4)) break;
    if (bucket > most) most = bucket;
  }
  if (most < h[1]) return h[1];
  for (; get_at(im, chains + 4ull * (most - h[1]), &chain, 4); most++)
    if (chain & 1) return (uint64_t)most + 1;
  return most;
}

static uint64_t symbols_in_relocations(const image *im, uint64_t table, uint64_t size) {
  uint64_t most = 0;
  for (uint64_t i = 0; i < size / sizeof(Elf64_Rela) && i < im->size / sizeof(Elf64_Rela); i++) {
    Elf64_Rela r;
    if (!get_at(im, table + i * sizeof r, &r, sizeof r)) break;
    if (ELF64_R_SYM(r.r_info) >= most) most = ELF64_R_SYM(r.r_info) + 1;
  }
  return most;
}

static uint64_t count_symbols(const image *im, const dynamic *d) {
  uint32_t hash[2] = {0, 0};
  if (d->hash) get_at(im, d->hash, hash, sizeof hash);
  uint64_t counts[] = {hash[1], symbols_in_gnu_hash(im, d), symbols_in_relocations(im, d->rela, d->rela_size),
                       symbols_in_relocations(im, d->plt, d->plt_size)};
  uint64_t most = 0;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (counts[i] > most) most = counts[i];
  return most < im->size / sizeof(Elf64_Sym) ? most : im->size / sizeof(Elf64_Sym);
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

static fk_status read_dynamic(const image *im, dynamic *d, uint64_t *start, uint64_t *entries) {
  Elf64_Phdr ph;
  if (!find_header(im, PT_DYNAMIC, &ph)) return BAD(im, "not a shared object: it has no dynamic section");
  *start = ph.p_offset;
  *entries = ph.p_filesz / sizeof(Elf64_Dyn);
  for (uint64_t i = 0; i < *entries; i++) {
    Elf64_Dyn e;
    if (!get(im, *start + i * sizeof e, &e, sizeof e)) return BAD(im, "truncated dynamic section");
    uint64_t v = e.d_un.d_val;
    if (e.d_tag == DT_NULL) *entries = i;
    if (e.d_tag == DT_SYMTAB) d->symbols = v;
    if (e.d_tag == DT_STRTAB) d->strings = v;
    if (e.d_tag == DT_STRSZ) d->string_size = v;
    if (e.d_tag == DT_HASH) d->hash = v;
    if (e.d_tag == DT_GNU_HASH) d->gnu_hash = v;
    if (e.d_tag == DT_RELA) d->rela = v;
    if (e.d_tag == DT_RELASZ) d->rela_size = v;
    if (e.d_tag == DT_JMPREL) d->plt = v;
    if (e.d_tag == DT_PLTRELSZ) d->plt_size = v;
  }
  if (!d->symbols || !d->strings) return BAD(im, "not a shared object: no dynamic symbols");
  return FK_OK;
}

static fk_status keep(fk_arena *arena, const char **list, int *count, const char *name) {
  list[*count] = fk_arena_strdup(arena, name);
  return list[(*count)++] ? FK_OK : FK_ERROR_MEMORY;
}

static fk_status read_symbols(const image *im, const dynamic *d, fk_arena *arena, fk_elf *elf) {
  uint64_t n = count_symbols(im, d);
  elf->exports = fk_arena_calloc(arena, n + 1, sizeof *elf->exports);
  elf->imports = fk_arena_calloc(arena, n + 1, sizeof *elf->imports);
  if (!elf->exports || !elf->imports) return FK_ERROR_MEMORY;
  for (uint64_t i = 1; i < n; i++) {
    Elf64_Sym s;
    if (!get_at(im, d->symbols + i * sizeof s, &s, sizeof s)) break;
    const char *name = string_at(im, d, s.st_name);
    if (!name) return BAD(im, "symbol %llu has no name in the string table", (unsigned long long)i);
    if (!*name) continue;
    if (s.st_shndx == SHN_UNDEF)
      FK_TRY(keep(arena, elf->imports, &elf->num_imports, name));
    else if (ELF64_ST_BIND(s.st_info) != STB_LOCAL)
      FK_TRY(keep(arena, elf->exports, &elf->num_exports, name));
  }
  return FK_OK;
}

static fk_status read_image(const image *im, fk_arena *arena, fk_elf *elf) {
  const Elf64_Ehdr *h = &im->header;
  dynamic d = {0};
  uint64_t start = 0, entries = 0;
  Elf64_Phdr stack;
  if (im->size < sizeof *h || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0) return BAD(im, "not an ELF file");
  if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB || h->e_type != ET_DYN ||
      h->e_machine != MACHINE || h->e_phentsize != sizeof(Elf64_Phdr))
    return BAD(im, "not a 64-bit shared object for this machine");
  FK_TRY(read_dynamic(im, &d, &start, &entries));
  FK_TRY(read_symbols(im, &d, arena, elf));
  elf->needed = fk_arena_calloc(arena, entries + 1, sizeof *elf->needed);
  if (!elf->needed) return FK_ERROR_MEMORY;
  for (uint64_t i = 0; i < entries; i++) {
    Elf64_Dyn e;
    if (!get(im, start + i * sizeof e, &e, sizeof e) || e.d_tag != DT_NEEDED) continue;
    const char *name = string_at(im, &d, e.d_un.d_val);
    if (name) FK_TRY(keep(arena, elf->needed, &elf->num_needed, name));
  }
  elf->executable_stack = find_header(im, PT_GNU_STACK, &stack) && (stack.p_flags & PF_X);
  return FK_OK;
}

fk_status fk_elf_read(fk_arena *arena, const char *path, fk_elf *elf) {
  struct stat st;
  *elf = (fk_elf){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    if (fd >= 0) close(fd);
    return fk_fail(FK_ERROR_NOT_FOUND, "%s: cannot read this file", path);
  }
  image im = {.size = (uint64_t)st.st_size, .path = path};
  void *map = im.size ? mmap(NULL, im.size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  close(fd);
  if (map == MAP_FAILED) return fk_fail(FK_ERROR_FORMAT, "%s: not an ELF file", path);
  im.bytes = map;
  fk_status status = FK_OK;
  if (!get(&im, 0, &im.header, sizeof im.header)) status = BAD(&im, "not an ELF file");
  if (!status) status = read_image(&im, arena, elf);
  munmap(map, im.size);
  return status;
}

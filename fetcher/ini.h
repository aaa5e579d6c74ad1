/* The configuration files of AWS tools (~/.aws/config, ~/.aws/credentials). Comes in: a file's bytes, a section
 * and a key. Goes out: the value. Pure function on bytes.
 *
 * The dialect is that of the AWS tools: "[name]", "key = value", '#' or ';' begin a comment line, and also end a
 * value where a blank stands before them; an indented line below "key =" belongs to that key and is asked for as
 * "key.subkey". What follows "profile" or such a word may stand in quotes. The last of several equal keys holds,
 * as do sections that stand there several times. */
#ifndef PS_FETCHER_INI_H
#define PS_FETCHER_INI_H
#include <stdbool.h>
#include <stddef.h>

/* False: no such section or key, an empty value, or one that does not fit into out. */
bool ps_ini_get(const char *text, size_t bytes, const char *section, const char *key, char *out,
                size_t cap);
bool ps_ini_has_section(const char *text, size_t bytes, const char *section);
#endif

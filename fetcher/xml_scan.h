/* The few values that S3 and STS put into XML: error codes, a region, temporary keys. Comes in: the
 * beginning of a document from a server. Goes out: the text of one element. No tree, no memory, no
 * entities but the five and character references of XML itself, nothing fetched: pure functions on
 * bytes that stop at the end of what is there, whatever that is. */
#ifndef PS_FETCHER_XML_SCAN_H
#define PS_FETCHER_XML_SCAN_H
#include <stdbool.h>
#include <stddef.h>

/* The text of the first element called `name` (a namespace prefix does not count), blanks at its
 * ends removed, into out with a NUL; control characters become '?'. False, and out[0] = 0, if there
 * is none, it holds other elements, or it does not fit. */
bool ps_xml_text(const char *xml, size_t bytes, const char *name, char *out, size_t cap);
#endif

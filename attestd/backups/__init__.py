"""Backups: one file that holds one moment of an instance, and instances made from such a file.

archive.py    the file's form: a tar archive of small parts, read as strictly as it is written
sealed.py     the same file under a passphrase
making.py     instance -> file
reading.py    file -> VerifiedBackup: every octet is checked before anything is made of it
restoring.py  VerifiedBackup -> a new instance, which no edge takes for the old one (docs/adr/0022-restoring.md)
"""

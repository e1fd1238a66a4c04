"""Folders on a disk or in a bucket, with one interface: atomic creation of files, listing, locks."""

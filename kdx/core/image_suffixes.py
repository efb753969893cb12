"""How files of pictures are called: those that `images` reads, and others, which a folder may hold too."""

# fmt: off
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")  # other pictures
# fmt: on

"""The viewer: dreams beside the truth as one HTML page that fetches nothing."""

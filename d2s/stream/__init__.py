"""Images, videos, cameras and network streams as frames to localize, and what is written about them."""

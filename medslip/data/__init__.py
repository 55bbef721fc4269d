"""Reading and drawing radiographs, reports and labels."""

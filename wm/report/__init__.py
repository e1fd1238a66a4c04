"""HTML reports: charts by Plotly, pages by jinja2. A page is one file that opens without a network."""
